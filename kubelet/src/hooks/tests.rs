use super::*;

#[test]
fn messages_are_upstreams() {
    let what = "Exec lifecycle hook ([a b]) for Container \"c\" in Pod \"p_ns(u)\"".to_owned();
    let error = HookError {
        what,
        cause: HookFailure::ExitCode {
            command: "a b".into(),
            code: 9,
            stderr: "oh".into(),
            output: "no\noh".into(),
        },
    };
    assert_eq!(
        error.to_string(),
        "Exec lifecycle hook ([a b]) for Container \"c\" in Pod \"p_ns(u)\" failed - error: command 'a b' exited with 9: oh, \
         message: \"no\\noh\""
    );
}

