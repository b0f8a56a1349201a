//! Files that are taken, and what is said of those that are not.

use std::fs;

use super::*;

struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    /// With the programs `a` and `b`, and a file that cannot be run.
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let binaries = directory.path().join("bin");
        fs::create_dir(&binaries).unwrap();
        for (name, mode) in [("a", 0o755), ("b", 0o700), ("plain", 0o644)] {
            fs::write(binaries.join(name), "").unwrap();
            let mode = fs::Permissions::from_mode(mode);
            fs::set_permissions(binaries.join(name), mode).unwrap();
        }
        Self { directory }
    }

    fn put(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    fn read(&self, config: &Path) -> Result<CredentialProviders, ConfigError> {
        let binaries = self.directory.path().join("bin");
        read(Some(config), Some(&binaries), true).map(Option::unwrap)
    }

    /// What is said of a file, without the path of its directory.
    fn faults(&self, text: &str) -> Vec<String> {
        let error = self.read(&self.put("c.yaml", text)).unwrap_err();
        let directory = format!("{}/", self.directory.path().display());
        let lines = error.lines().into_iter();
        lines.map(|line| line.replace(&directory, "")).collect()
    }
}

const HEAD: &str = "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\n";

fn provider(name: &str) -> String {
    format!(
        "- name: {name}\n  matchImages: ['*.r.io', 'r.io:5000/team']\n  defaultCacheDuration: 10m\n  apiVersion: credentialprovider.kubelet.k8s.io/v1\n"
    )
}

#[test]
fn a_file_is_taken_with_all_that_it_says() {
    let place = Place::new();
    let text = format!(
        "{HEAD}providers:\n{}  args: [get, --quiet]\n  env: [{{name: REGION, value: x}}]\n  tokenAttributes:\n    serviceAccountTokenAudience: r.io\n    cacheType: Token\n    requireServiceAccount: true\n    requiredServiceAccountAnnotationKeys: [r.io/Role]\n    optionalServiceAccountAnnotationKeys: [r.io/tier]\n",
        provider("a")
    );
    let path = place.put("c.yaml", &text);
    let read = place.read(&path).unwrap();
    let expected = CredentialProvider {
        name: "a".to_owned(),
        api_version: "credentialprovider.kubelet.k8s.io/v1".to_owned(),
        match_images: vec!["*.r.io".to_owned(), "r.io:5000/team".to_owned()],
        default_cache: Duration::from_secs(600),
        args: vec!["get".to_owned(), "--quiet".to_owned()],
        env: vec![("REGION".to_owned(), "x".to_owned())],
        token: Some(TokenAttributes {
            audience: "r.io".to_owned(),
            cached_by_token: true,
            required: true,
            required_annotations: vec!["r.io/Role".to_owned()],
            optional_annotations: vec!["r.io/tier".to_owned()],
        }),
    };
    assert_eq!(read.providers, [expected]);
    let mut whole = (text.len() as u64).to_be_bytes().to_vec();
    whole.extend(text.as_bytes());
    let digest = ring::digest::digest(&ring::digest::SHA256, &whole);
    assert_eq!(read.hash, format!("sha256:{}", crate::images::hex(&digest)));
    assert_eq!(super::read(None, None, true).unwrap(), None);
}

#[test]
fn the_files_of_a_directory_are_one() {
    let place = Place::new();
    let file = |name: &str, version: &str| {
        format!("{HEAD}providers:\n{}", provider(name)).replacen("/v1\n", version, 1)
    };
    place.put("d/2.json", &file("a", "/v1alpha1\n"));
    place.put("d/1.yml", &file("b", "/v1beta1\n"));
    place.put("d/0.conf", "no configuration");
    fs::create_dir(place.directory.path().join("d/3.yaml")).unwrap();
    let names = |read: CredentialProviders| -> Vec<String> {
        read.providers.into_iter().map(|p| p.name).collect()
    };
    let directory = place.directory.path().join("d");
    assert_eq!(names(place.read(&directory).unwrap()), ["b", "a"]);
    place.put("d/4.yaml", &file("a", "/v1\n"));
    let error = place.read(&directory).unwrap_err().lines().join("\n");
    assert!(
        error.ends_with(
            "d/4.yaml:4:9: providers[0].name: duplicate provider name \"a\" found in configuration file(s)"
        ),
        "{error}"
    );
    let empty = place.directory.path().join("e");
    fs::create_dir(&empty).unwrap();
    let error = place.read(&empty).unwrap_err().to_string();
    assert!(
        error.contains("no configuration files found in directory"),
        "{error}"
    );
}

#[test]
fn what_is_wrong_has_its_place_and_upstreams_words() {
    let place = Place::new();
    let a = provider("a");
    for (text, said) in [
        (
            "apiVersion: kubelet.config.k8s.io/v2\nkind: CredentialProviderConfig\n".to_owned(),
            vec![
                "c.yaml:1:13: apiVersion must be one of: \"kubelet.config.k8s.io/v1\", \"kubelet.config.k8s.io/v1alpha1\", \"kubelet.config.k8s.io/v1beta1\"; found \"kubelet.config.k8s.io/v2\"",
            ],
        ),
        (
            "apiVersion: kubelet.config.k8s.io/v1\nkind: Pod\n".to_owned(),
            vec!["c.yaml:2:7: failed to decode \"Pod\" (wrong Kind)"],
        ),
        (
            format!("{HEAD}providers: []\n"),
            vec!["c.yaml:3:12: providers: Required value: at least 1 item in plugins is required"],
        ),
        (
            format!(
                "{HEAD}providers:\n{}",
                a.replace("args", "").replace("name: a", "name: 'x y'")
            ),
            vec![
                "c.yaml:4:9: providers[0].name: Invalid value: \"x y\": provider name cannot contain spaces",
                "c.yaml:4:9: plugin binary executable bin/x y did not exist",
            ],
        ),
        (
            format!(
                "{HEAD}providers:\n{}",
                a.replace("kubelet.k8s.io/v1", "kubelet.k8s.io/v3")
            ),
            vec![
                "c.yaml:7:15: providers[0].apiVersion: Unsupported value: \"credentialprovider.kubelet.k8s.io/v3\": supported values: \"credentialprovider.kubelet.k8s.io/v1\", \"credentialprovider.kubelet.k8s.io/v1alpha1\", \"credentialprovider.kubelet.k8s.io/v1beta1\"",
            ],
        ),
        (
            format!(
                "{HEAD}providers:\n{}",
                a.replace("['*.r.io', 'r.io:5000/team']", "['%zz', 'r.io:x', 'a b']")
            ),
            vec![
                "c.yaml:5:17: providers[0].matchImages[0]: Invalid value: \"%zz\": match image is invalid: parse \"https://%zz\": invalid URL escape \"%zz\"",
                "c.yaml:5:24: providers[0].matchImages[1]: Invalid value: \"r.io:x\": match image is invalid: parse \"https://r.io:x\": invalid port \":x\" after host",
                "c.yaml:5:34: providers[0].matchImages[2]: Invalid value: \"a b\": match image is invalid: parse \"https://a b\": invalid character \" \" in host name",
            ],
        ),
        (
            format!("{HEAD}providers:\n{}", a.replace("10m", "-1s")),
            vec![
                "c.yaml:6:25: providers[0].defaultCacheDuration: Invalid value: \"-1s\": must be greater than or equal to 0",
            ],
        ),
        (
            format!("{HEAD}providers:\n{a}  arg: [x]\n"),
            vec!["c.yaml:8:3: providers[0].arg: unknown field, did you mean \"args\"?"],
        ),
        (
            format!("{HEAD}providers:\n{}", provider("plain")),
            vec![
                "c.yaml:4:9: error inspecting binary executable bin/plain: exec: \"bin/plain\": permission denied",
            ],
        ),
        (
            format!(
                "{HEAD}providers:\n{a}  tokenAttributes: {{requireServiceAccount: false, requiredServiceAccountAnnotationKeys: [x, x, '/y'], optionalServiceAccountAnnotationKeys: [x]}}\n"
            ),
            vec![
                "c.yaml:8:3: providers[0].tokenAttributes.serviceAccountTokenAudience: Required value",
                "c.yaml:8:89: providers[0].tokenAttributes.requiredServiceAccountAnnotationKeys: Forbidden: requireServiceAccount cannot be false when requiredServiceAccountAnnotationKeys is set",
                "c.yaml:8:93: providers[0].tokenAttributes.requiredServiceAccountAnnotationKeys[1]: Duplicate value: \"x\"",
                "c.yaml:8:96: providers[0].tokenAttributes.requiredServiceAccountAnnotationKeys[2]: Invalid value: \"/y\": prefix part must be a DNS subdomain (e.g. 'example.com')",
                "c.yaml:8:20: providers[0].tokenAttributes: Invalid value: [\"x\"]: annotation keys cannot be both required and optional",
                "c.yaml:8:3: providers[0].tokenAttributes.cacheType: Required value: cacheType is required to be set when tokenAttributes is specified. Supported values are: ServiceAccount, Token",
            ],
        ),
    ] {
        assert_eq!(place.faults(&text), said, "{text}");
    }
}

#[test]
fn the_flags_need_each_other() {
    let place = Place::new();
    let config = place.put("c.yaml", &format!("{HEAD}providers:\n{}", provider("a")));
    let said = |config: Option<&Path>, binaries: Option<&Path>| {
        let error = read(config, binaries, true).unwrap_err();
        error.lines().join("\n")
    };
    assert_eq!(
        said(Some(&config), None),
        "--image-credential-provider-bin-dir: plugin binary directory  did not exist"
    );
    assert_eq!(
        said(None, Some(place.directory.path())),
        "--image-credential-provider-config: credential provider config path is empty"
    );
    assert_eq!(
        said(Some(&config), Some(Path::new("/no/such"))),
        "--image-credential-provider-bin-dir: plugin binary directory /no/such did not exist"
    );
}
