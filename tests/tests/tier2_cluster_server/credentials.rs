//! Tokens and certificates.

use super::*;

#[test]
fn a_service_account_has_tokens_bound_to_a_pod() {
    with_server(async |cluster, client| {
        let mut own = pod("a", "n");
        own["spec"]["automountServiceAccountToken"] = Value::Null;
        let made = client.create(&pods(""), &own).await?;
        let volume = text(&made, "/spec/volumes/0/name");
        ensure!(volume.starts_with("kube-api-access-"), "{made}");
        let place = path("serviceaccounts", "default", "default/token");
        let request = |seconds: u64, uid: &Value| {
            json!({ "spec": {
                "audiences": ["https://kubernetes.default.svc.cluster.local"],
                "expirationSeconds": seconds,
                "boundObjectRef": { "apiVersion": "v1", "kind": "Pod", "name": "a", "uid": uid },
            } })
        };
        let uid = &made["metadata"]["uid"];
        let answer = client.create(&place, &request(3600, uid)).await?;
        let token = text(&answer, "/status/token").to_owned();
        ensure!(token.split('.').count() == 3, "{answer}");
        ensure!(text(&answer, "/status/expirationTimestamp").ends_with('Z'));
        ensure!(code(client.create(&place, &request(60, uid)).await)? == 422);
        let other = json!("00000000-0000-4000-8000-000000000000");
        ensure!(code(client.create(&place, &request(3600, &other)).await)? == 409);
        let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
        let review = json!({ "spec": { "token": token } });
        let reviewed = client.create(reviews, &review).await?;
        ensure!(
            text(&reviewed, "/status/user/username") == "system:serviceaccount:default:default",
            "{reviewed}"
        );
        // It is somebody, who may do nothing here.
        let account = cluster.client_with(&token)?;
        ensure!(code(account.get("/api/v1/pods").await)? == 403);
        let nobody = cluster.client_with("nonsense")?;
        ensure!(code(nobody.get("/api/v1/pods").await)? == 401);
        client.delete(&pods("a"), Some(0)).await?;
        let review = json!({ "spec": { "token": token } });
        let limit = std::time::Duration::from_secs(20);
        tests::wait::eventually("the token goes with its pod", limit, async || {
            let reviewed = client.create(reviews, &review).await?;
            ensure!(reviewed["status"]["authenticated"] != true, "{reviewed}");
            Ok(())
        })
        .await
    });
}

#[test]
fn a_bootstrap_token_leads_to_a_certificate() {
    with_server(async |cluster, admin| {
        let token = "abcdef.0123456789abcdef";
        let directory = tempfile::tempdir()?;
        cluster
            .bootstrap_kubeconfig(token, directory.path())
            .await?;
        let joining = cluster.client_with(token)?;
        ensure!(code(joining.get("/api/v1/nodes").await)? == 403);
        let (request, _) = tests::cluster::request_certificate("system:node:n", "system:nodes")?;
        let signing = json!({
            "metadata": { "generateName": "csr-" },
            "spec": {
                "signerName": tests::cluster::CLIENT_SIGNER,
                "usages": ["digital signature", "client auth"],
                "request": STANDARD.encode(request),
            },
        });
        let all = path("certificatesigningrequests", "", "");
        let made = joining.create(&all, &signing).await?;
        ensure!(
            text(&made, "/spec/username") == "system:bootstrap:abcdef",
            "{made}"
        );
        let undecided = cluster.undecided().await?;
        ensure!(undecided.len() == 1, "{undecided:?}");
        cluster.sign(&undecided[0]).await?;
        let name = text(&made, "/metadata/name");
        let signed = joining.get(&format!("{all}/{name}")).await?;
        let certificate = STANDARD.decode(text(&signed, "/status/certificate"))?;
        ensure!(certificate.starts_with(b"-----BEGIN CERTIFICATE-----"));
        ensure!(cluster.undecided().await?.is_empty());
        let review = json!({ "spec": {
            "user": "system:anonymous", "groups": ["system:unauthenticated"],
            "resourceAttributes": { "verb": "get", "resource": "nodes", "subresource": "proxy" },
        } });
        let reviews = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
        let reviewed = admin.create(reviews, &review).await?;
        ensure!(reviewed["status"]["allowed"] == false, "{reviewed}");
        Ok(())
    });
}
