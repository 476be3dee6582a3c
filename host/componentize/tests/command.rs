//! The command as a Makefile calls it.

use std::process::Command;

#[test]
fn it_says_what_is_missing() {
    let run = |arguments: &[&str]| {
        let done =
            Command::new(env!("CARGO_BIN_EXE_sluice-componentize")).args(arguments).output().expect("the command");
        (done.status.success(), String::from_utf8_lossy(&done.stderr).into_owned())
    };
    assert_eq!(run(&[]), (false, "usage: sluice-componentize CORE.wasm COMPONENT.wasm\n".to_owned()));
    let (good, message) = run(&["/none.wasm", "/none"]);
    assert!(!good && message.starts_with("/none.wasm: "), "{message}");
}
