//! Files of cases are read as `gateway.toml` is: complete, or with all errors at their places.

use super::*;

fn load(text: &str) -> Result<CaseFile, ConfigErrors> {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("cases.toml");
    std::fs::write(&path, text).expect("a file");
    load_cases(&path)
}

#[track_caller]
fn errors(text: &str) -> Vec<String> {
    let errors = load(text).expect_err("errors");
    errors.iter().map(|error| error.to_string().split_once("cases.toml:").expect("a place").1.to_owned()).collect()
}

#[test]
fn a_case_has_the_filter_of_its_file_but_for_what_it_says() {
    let file = load(
        "component = 'cors'\n[filter]\nconfig = { a = 1 }\ngrants = { kv = ['s'] }\n[consumers.acme]\nplan = 'gold'\n\
         [[case]]\nname = 'one'\nkv.s.key = 'v'\n[[case]]\nname = 'two'\nconfig = { b = 2 }\nclock = 1970-01-01T00:00:01Z\n",
    )
    .expect("no errors");
    assert_eq!(file.component, Some(CaseComponent::Shipped("cors".into())));
    let configs: Vec<_> = file.cases.iter().map(|case| case.filter.config.expose().to_owned()).collect();
    assert_eq!(configs, [r#"{"a":1}"#, r#"{"b":2}"#]);
    assert!(file.cases.iter().all(|case| case.filter.grants.services.kv.contains("s")));
    assert_eq!((file.cases[0].clock, file.cases[1].clock), (CLOCK_US, 1_000_000));
    assert_eq!(file.cases[0].kv, [("s".into(), "key".into(), "v".into())]);
    assert_eq!(file.consumers[0].plan.as_deref(), Some("gold"));
}

#[test]
fn a_step_has_the_request_of_its_case_but_for_what_it_says() {
    let file = load(
        "[[case]]\nname = 'limit'\nrequest = { method = 'POST', headers = { a = '1' } }\n[[case.step]]\nrepeat = 3\n\
         [[case.step]]\nrequest.headers.b = ['2', '3']\nadvance = '1s'\nexpect.verdict = 'respond'\nexpect.budget.memory = '1MiB'\n",
    )
    .expect("no errors");
    let [first, second] = &file.cases[0].steps[..] else { panic!("{file:?}") };
    assert_eq!((first.repeat, second.repeat, second.advance), (3, 1, Duration::from_secs(1)));
    assert_eq!(second.request.method, Method::POST);
    let b = ("b".to_owned(), vec!["2".to_owned(), "3".to_owned()]);
    assert_eq!(second.request.headers, [b, ("a".to_owned(), vec!["1".to_owned()])]);
    assert_eq!((second.expected.len(), second.budget[0].most), (1, 1 << 20));
    assert_eq!(second.expected[0].at.line, 9);
}

#[test]
fn errors_have_their_places() {
    assert_eq!(
        errors("[[case]]\nname = 'a'\nexpct = 1\n"),
        ["3:1: case[0].expct: unknown key, did you mean `expect`?"]
    );
    assert_eq!(errors("[[case]]\n"), ["1:1: case[0]: the key `name` is missing"]);
    let found = errors("[[case]]\nname = 'a'\nrequest.headers.Host = 'acme.example'\n");
    assert!(found[0].contains("the authority is that of the `url`"), "{found:?}");
    let found =
        errors("[[case]]\nname = 'a'\nexpect = { verdict = 'no', response = { status = 'x' } }\nclock = 'noon'\n");
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found[0].starts_with("3:22: case[0].expect.verdict: expected \"continue\""), "{found:?}");
    let found = errors("[[case]]\nname = 'a'\nexpect.verdict = 'fail'\n[[case.step]]\n");
    assert!(found[0].contains("each of them has its own `expect`"), "{found:?}");
    let found = errors("[filter]\ngrants = { kw = [] }\n[[case]]\nname = 'a'\n[[case]]\nname = 'b'\n");
    assert_eq!(found.len(), 1, "what is wrong with the filter is said once: {found:?}");
}

#[test]
fn the_page_tells_every_key() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/src/filters/testing.md");
    let page = std::fs::read_to_string(page).expect("the page of tests");
    let code: BTreeSet<&str> = page
        .split('`')
        .skip(1)
        .step_by(2)
        .flat_map(|span| span.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'))
        .collect();
    let of_gateway = ["grants", "limits", "instances", "consumers"];
    for key in case_keys() {
        let parts: Vec<&str> = key.path.split('.').collect();
        if parts.iter().any(|part| of_gateway.contains(part)) {
            continue;
        }
        let name = parts.iter().rev().find(|part| **part != "*").expect("a name");
        assert!(code.contains(name), "docs/src/filters/testing.md says nothing of `{}`", key.path);
    }
}
