//! Which image references leave their version open. The grammar is that of the distribution project's references.

/// Whether `image` names the tag `latest`, or neither tag nor digest: then it is pulled each time by default. A text
/// that is no reference is not, as upstream.
pub(crate) fn is_latest(image: &str) -> bool {
    match tag_and_digest(image) {
        Some((Some(tag), _)) => tag == "latest",
        Some((None, digest)) => !digest,
        None => false,
    }
}

/// The tag, and whether there is a digest; `None` when `image` is not a legal reference.
fn tag_and_digest(image: &str) -> Option<(Option<&str>, bool)> {
    let is_hex = |s: &str| s.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
    if image.len() == 64 && is_hex(image) {
        return None;
    }
    let (rest, digest) = match image.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (image, None),
    };
    if digest.is_some_and(|d| !legal_digest(d)) {
        return None;
    }
    let (domain, path) = match rest.split_once('/') {
        Some((first, path)) if is_domain(first) => (Some(first), path),
        _ => (None, rest),
    };
    if domain.is_some_and(|d| !legal_domain(d)) {
        return None;
    }
    let (path, tag) = match path.split_once(':') {
        Some((path, tag)) => (path, Some(tag)),
        None => (path, None),
    };
    let legal = path.split('/').all(legal_component) && tag.is_none_or(legal_tag);
    // On the default host a name without a slash lies in `library/`, which counts.
    let default_host = matches!(domain, None | Some("docker.io" | "index.docker.io"));
    let prefix = match default_host && !path.contains('/') {
        true => "library/".len(),
        false => 0,
    };
    (legal && prefix + path.len() <= 255).then_some((tag, digest.is_some()))
}

/// Whether what stands before the first slash is a host and not part of a name on the default host.
fn is_domain(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost" || first.chars().any(char::is_uppercase)
}

fn legal_domain(domain: &str) -> bool {
    if let Some(rest) = domain.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else {
            return false;
        };
        let legal = |c: u8| c.is_ascii_hexdigit() || c == b':';
        return !address.is_empty()
            && address.bytes().all(legal)
            && (port.is_empty() || port.strip_prefix(':').is_some_and(legal_port));
    }
    let (host, port) = match domain.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (domain, None),
    };
    let label = |l: &str| {
        !l.is_empty()
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')
    };
    host.split('.').all(label) && port.is_none_or(legal_port)
}

fn legal_port(port: &str) -> bool {
    !port.is_empty() && port.bytes().all(|c| c.is_ascii_digit())
}

/// Lower-case letters and digits, with single dots, one or two underscores, or dashes between them.
fn legal_component(component: &str) -> bool {
    let mut separator = String::new();
    let mut started = false;
    for c in component.chars() {
        match c {
            'a'..='z' | '0'..='9' => {
                let joins = matches!(separator.as_str(), "" | "." | "_" | "__")
                    || separator.bytes().all(|c| c == b'-');
                if !joins || (!started && !separator.is_empty()) {
                    return false;
                }
                separator.clear();
                started = true;
            }
            '.' | '_' | '-' => separator.push(c),
            _ => return false,
        }
    }
    started && separator.is_empty()
}

fn legal_tag(tag: &str) -> bool {
    let word = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
    (1..=128).contains(&tag.len())
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|c| word(c) || c == b'.' || c == b'-')
}

fn legal_digest(digest: &str) -> bool {
    digest.split_once(':').is_some_and(|(algorithm, hex)| {
        let legal = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'+' | b'.');
        algorithm.starts_with(|c: char| c.is_ascii_alphabetic())
            && algorithm.bytes().all(legal)
            && hex.len() >= 32
            && hex.bytes().all(|c| c.is_ascii_hexdigit())
    })
}

#[cfg(test)]
mod tests {
    use super::is_latest;

    #[test]
    fn open_versions_are_pulled_each_time() {
        for image in [
            "nginx",
            "nginx:latest",
            "library/nginx",
            "localhost/nginx",
            "localhost:5000/a/b",
            "registry.k8s.io/busybox",
            "REGISTRY/x",
            "[::1]:5000/x",
            "a__b/c-d--e.f",
            "nginx:latest@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        ] {
            assert!(is_latest(image), "{image}");
        }
    }

    #[test]
    fn fixed_versions_and_illegal_names_are_not() {
        for image in [
            "",
            "nginx:1.27",
            "nginx@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
            "localhost:5000/a:v1",
            "Nginx",
            "nginx:",
            "nginx: latest",
            "a//b",
            "-a",
            "a.",
            "a..b",
            "a___b",
            "nginx:.x",
            "nginx@latest",
            "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
            "nginx ",
        ] {
            assert!(!is_latest(image), "{image}");
        }
    }

    #[test]
    fn a_name_is_at_most_255_characters_with_what_is_implied() {
        let long = |n: usize| "x".repeat(n);
        assert!(is_latest(&long(247)));
        assert!(!is_latest(&long(248)));
        assert!(is_latest(&format!("a/{}", long(253))));
        assert!(!is_latest(&format!("a/{}", long(254))));
        assert!(is_latest(&format!("reg.io/{}", long(255))));
    }
}
