//! `sluice plugin`: tools for authors of filters, run as they run them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use sluice_harness::{fixtures, gateway, tools};
use tempfile::TempDir;

/// A folder with a file of cases.
struct Cases(TempDir);

impl Cases {
    fn new(text: &str) -> Cases {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("cases")).expect("a folder");
        let cases = Cases(folder);
        cases.write(text);
        cases
    }

    fn write(&self, text: &str) {
        fs::write(self.0.path().join("cases/all.toml"), text).expect("a file");
    }

    fn text(&self) -> String {
        fs::read_to_string(self.0.path().join("cases/all.toml")).expect("a file")
    }

    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        run(self.0.path(), arguments)
    }

    /// The output of `plugin test`, which has to end with this code.
    #[track_caller]
    fn test(&self, code: i32, arguments: &[&str]) -> String {
        let (ended, stdout, stderr) = self.run(&[&["plugin", "test"], arguments].concat());
        assert_eq!(ended, code, "{stdout}{stderr}");
        if stdout.is_empty() { stderr } else { stdout }
    }
}

fn run(folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(gateway::binary());
    command.args(arguments).current_dir(folder).env("XDG_CACHE_HOME", fixtures::cache_dir());
    let Output { status, stdout, stderr } = with_tools(&mut command).output().expect("sluice");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (status.code().expect("an exit code"), text(stdout), text(stderr))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn target() -> PathBuf {
    gateway::binary().ancestors().nth(2).expect("the target folder").to_owned()
}

/// Lets a command find the tools that `.ci/run` installs, and keep what they build from run to run; it fetches nothing.
fn with_tools(command: &mut Command) -> &mut Command {
    let kept = target().join("languages");
    let folders = [tools::tools().join("venv/bin"), tools::tools().join("node/node_modules/.bin")];
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(folders.into_iter().chain(std::env::split_paths(&path))).expect("a search path");
    command.env("PATH", path).env("NODE_PATH", tools::tools().join("node/node_modules"));
    command.env("CARGO_NET_OFFLINE", "true").env("CARGO_TARGET_DIR", target().join("docs"));
    command.env("GOCACHE", kept.join("go-cache")).env("GOTOOLCHAIN", "local").env("GOPROXY", "off");
    command.env("ZIG_GLOBAL_CACHE_DIR", kept.join("zig-cache")).env("ZIG_LOCAL_CACHE_DIR", kept.join("zig-cache"));
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    tools::without_proxies(command)
}

/// A case of the probe, whose hooks do this.
fn probe(hooks: &str, rest: &str) -> Cases {
    let component = fixtures::file("probe-waiting").display().to_string();
    Cases::new(&format!(
        "component = '{component}'\n[[case]]\nname = 'probe'\non_failed_trial = 'warn'\nconfig = {{ {hooks} }}\n{rest}\n"
    ))
}

const LIMIT: &str = "component = 'rate-limit'\n[filter.config]\nlimits = [{ amount = 2, window = '10s' }]\n\
    # What it promises.\n[[case]]\nname = 'first'\nexpect.verdict = 'continue' # of two\n\n[[case]]\nname = 'third'\n\
    [[case.step]]\nrepeat = 2\n[[case.step]]\nexpect = { verdict = 'respond', response.status = 429 }\n";

#[test]
fn cases_that_pass_end_with_0() {
    let cases = Cases::new(LIMIT);
    assert_eq!(cases.test(0, &[]), "./cases/all.toml\n  ok    first\n  ok    third\n2 cases: 2 passed, 0 failed\n");
    assert!(cases.test(0, &["--filter", "thi"]).ends_with("\n1 case: 1 passed, 0 failed\n"));
    assert!(cases.test(0, &["cases/all.toml"]).starts_with("cases/all.toml\n"));
}

#[test]
fn cases_that_fail_end_with_1_and_say_where() {
    let cases = Cases::new(&LIMIT.replace("429", "503"));
    let expected = "  FAIL  third\n        14:51: step 2: expect.response.status: expected 503, seen 429\n2 cases: 1 passed, 1 failed\n";
    let text = cases.test(1, &["--junit", "junit.xml"]);
    assert!(text.ends_with(expected), "{text}");
    let junit = fs::read_to_string(cases.0.path().join("junit.xml")).expect("a file");
    assert!(junit.contains("<testsuites tests=\"2\" failures=\"1\""), "{junit}");
    assert!(
        junit.contains("<failure message=\"14:51: step 2: expect.response.status: expected 503, seen 429\">"),
        "{junit}"
    );
    let json: Value = serde_json::from_str(&cases.test(1, &["--json"])).expect("JSON");
    assert_eq!((&json["passed"], &json["failed"]), (&1.into(), &1.into()));
    let failed = &json["cases"][1];
    assert_eq!((&failed["passed"], &failed["failures"][0]["step"]), (&false.into(), &2.into()));
    let seen = &failed["seen"][1];
    assert_eq!(seen["response"]["headers"]["content-type"], "application/problem+json");
    assert!(seen["used"]["instructions"].as_u64() > Some(1000), "{seen}");
}

#[test]
fn instructions_are_the_same_each_time() {
    let cases = Cases::new(LIMIT);
    let used = || {
        let json: Value = serde_json::from_str(&cases.test(0, &["--json"])).expect("JSON");
        json["cases"][1]["seen"][1]["used"]["instructions"].clone()
    };
    assert_eq!(used(), used());
}

#[test]
fn what_can_t_be_run_ends_with_2_and_its_place() {
    let cases = Cases::new("[[case]]\nname = 'a'\nexpect.verdit = 'continue'\n");
    let text = cases.test(2, &[]);
    assert!(
        text.contains("cases/all.toml:3:8: case[0].expect.verdit: unknown key, did you mean `verdict`?\n1 error\n"),
        "{text}"
    );
    cases.write("[[case]]\nname = 'a'\n");
    assert!(cases.test(2, &[]).contains("there is no component, and `"), "no component");
    cases.write("component = 'rate-limit'\n[filter.config]\nlimits = [{ amount = 1 }]\n");
    assert!(cases.test(2, &[]).contains("there is no case"));
    assert!(cases.test(2, &["nowhere"]).contains("nowhere"));
    cases.write("component = 'all.toml'\n[[case]]\nname = 'a'\n");
    assert!(cases.test(2, &["--component", "cases/all.toml"]).contains("cases/all.toml: not a WebAssembly component"));
}

#[test]
fn what_was_seen_is_written_and_nothing_else_changes() {
    let wrong = LIMIT.replace("429", "503").replace("'continue'", "'respond'");
    let cases = Cases::new(&wrong);
    assert!(cases.test(1, &["--update"]).ends_with("2 expectations changed\n"));
    let expected = LIMIT.replace("'continue'", "\"continue\"");
    assert_eq!(cases.text(), expected);
    cases.test(0, &[]);
}

#[test]
fn a_broken_budget_names_the_call_that_broke_it() {
    let hooks = "on-request = [{ do = 'path', to = 'a' }, { do = 'method', to = 'b' }, { do = 'method', to = 'c' }, { do = 'hash', value = 'x', to = 'd' }]";
    let text = probe(hooks, "expect.budget = { host_calls = 6, instructions = 10, memory = '64KiB' }").test(1, &[]);
    assert!(
        text.contains("expect.budget.host_calls: used 8, may use 6: call 7, `crypto.hash`, is one too many\n"),
        "{text}"
    );
    assert!(
        text.contains("on-request: request.path, request.set-header ×4, request.method ×2, crypto.hash\n"),
        "{text}"
    );
    assert!(text.contains("expect.budget.instructions: used "), "{text}");
    assert!(text.contains(" may use 65536 bytes: it was more before call 1, `request.path`"), "{text}");
}

#[test]
fn the_world_of_a_case_is_its_own_and_still() {
    let hooks = "on-request = [{ do = 'kv-set', space = 's', name = 'b', value = '2', to = 'x' }, { do = 'kv-get', space = 's', name = 'a', to = 'a' }, \
        { do = 'count', name = 'seen_total', to = 'y' }, { do = 'log', value = 'hello' }, { do = 'context-set', name = 'k', value = 'v' }, \
        { do = 'set-consumer', value = 'ada' }, { do = 'client-address', to = 'z' }], on-complete = [{ do = 'summary', to = 'summary' }]";
    let rest = "grants.kv = ['s']\nkv.s.a = '1'\nrequest = { client = '203.0.113.7', url = 'https://shop.example/a?b=c' }\n\
        [case.expect]\nverdict = 'continue'\nconsumer = 'ada'\ncontext = { k = 'v', other = false }\nkv.s = { a = '1', b = '2', c = false }\n\
        metrics.seen_total = 1\nhttp = []\nupstream = { path = '/a', query = 'b=c', headers = { a = '1', z = '203.0.113.7' } }\n";
    let cases = probe(hooks, rest);
    let text = cases.test(0, &["--json"]);
    let json: Value = serde_json::from_str(&text).expect("JSON");
    let log = &json["cases"][0]["seen"][0]["log"];
    assert_eq!(log[0], "info: hello");
    assert!(log[1].as_str().is_some_and(|line| line.starts_with("info: summary: {\"request_id\":")), "{log}");
}

#[test]
fn calls_are_answered_as_foreseen_and_others_fail_the_case() {
    let call = "on-request = [{ do = 'call', url = 'https://auth.example/a', to = 'a' }, { do = 'call', url = 'https://auth.example/b', to = 'b' }]";
    let granted = "grants.http = ['https://auth.example']\n";
    let answer = "[[case.http]]\nurl = 'https://auth.example/a'\nstatus = 201\nbody = 'yes'\n";
    let text = probe(call, &format!("{granted}{answer}")).test(1, &[]);
    assert!(text.contains("http: the call GET https://auth.example/b was not foreseen\n"), "{text}");
    let both = format!("{answer}[[case.http]]\nurl = 'https://auth.example/b'\nerror = 'timeout'\n");
    let expected = "[case.expect]\nupstream.headers = { a = '201 yes', b = 'timeout' }\nhttp = ['GET https://auth.example/a', 'GET https://auth.example/b']\n";
    probe(call, &format!("{granted}{expected}{both}")).test(0, &[]);
    // Grants hold as in a gateway.
    let refused = "[case.expect]\nupstream.headers = { a = 'not-granted: grants.http = [\"https://auth.example\"]' }\n";
    probe(call, refused).test(0, &[]);
}

#[test]
fn a_filter_that_fails_fails_its_case_unless_that_is_meant() {
    for (action, kind) in
        [("trap", "trap"), ("panic", "trap"), ("spin", "deadline"), ("memory", "memory"), ("fail", "declared")]
    {
        let hooks = format!("on-request = [{{ do = '{action}' }}]");
        let text = probe(&hooks, "").test(1, &[]);
        assert!(text.contains(&format!("expect.failure: the filter fails ({kind}): ")), "{action}: {text}");
        probe(&hooks, &format!("expect = {{ verdict = 'fail', failure = '{kind}' }}")).test(0, &[]);
        probe(&hooks, &format!("on_error = 'open'\nexpect = {{ verdict = 'continue', failure = '{kind}' }}"))
            .test(0, &[]);
    }
}

#[test]
fn bodies_trailers_and_selection_pass_the_production_pipeline() {
    let hooks = "on-request-body = [{ do = 'upper-body' }], on-response-body = [{ do = 'upper-body' }], \
        on-response-trailers = [{ do = 'set-trailer', name = 'grpc-message', value = 'ok' }], \
        select-upstream = [{ do = 'choose-upstream', value = 'second' }]";
    let rest = "request = { method = 'POST', body = 'ping' }\nresponse = { body = 'pong', trailers = { grpc-status = '0' } }\n\
        route.upstreams = ['first', 'second']\n[case.expect]\nupstream.body = 'PING'\nresponse = { body = 'PONG', trailers = { grpc-status = '0', grpc-message = 'ok' } }\n\
        selection.upstream = 'second'\n";
    probe(hooks, rest).test(0, &[]);
    let text = probe(hooks, "limits.body = '2B'\nrequest = { method = 'POST', body = 'ping' }\n").test(1, &[]);
    assert!(text.contains("the filter fails (body): the body has more than 2 bytes"), "{text}");
}

#[test]
fn inspect_and_docs_tell_of_a_shipped_plugin() {
    let (code, stdout, _) = run(Path::new("/"), &["plugin", "inspect", "--json", "acl"]);
    let json: Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!((code, &json["name"], &json["hooks"]), (0, &"acl".into(), &serde_json::json!(["on-request"])));
    assert!(json["imports"].as_array().is_some_and(|imports| imports.contains(&"consumers".into())), "{json}");
    let (code, page, _) = run(Path::new("/"), &["plugin", "docs", "acl"]);
    assert_eq!(code, 0);
    for part in [
        "# acl\n",
        "| hooks | `on-request` |",
        "| `rules[].effect` | `\"allow\"`, `\"deny\"` | required |  |",
        "| `default` |",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    let plugin = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins/acl");
    let (code, page, stderr) = run(&plugin, &["plugin", "docs", "."]);
    assert!(code == 0 && page.contains("- `sluice_filter_would_refuse_total`"), "{page}{stderr}");
}

#[test]
fn check_compares_imports_grants_and_config() {
    let folder = tempfile::tempdir().expect("a folder");
    let plugins = folder.path().join("plugins");
    fs::create_dir(&plugins).expect("a folder");
    fs::copy(fixtures::file("probe-waiting"), plugins.join("mine.wasm")).expect("a component");
    let config = |filter: &str| {
        let text = format!("[listeners.http]\nbind = \"127.0.0.1:0\"\n[filters.mine]\n{filter}\n");
        fs::write(folder.path().join("gateway.toml"), text).expect("a file");
        run(folder.path(), &["plugin", "check", "plugins/mine.wasm", "--config", "gateway.toml"])
    };
    let (code, text, stderr) =
        config("grants.consumers = true\nconfig = { on-request = [{ do = 'log', value = 'x' }] }");
    assert_eq!(code, 0, "{text}{stderr}");
    assert!(text.contains("note: plugins/mine.wasm: hooks: on-request, "), "{text}");
    assert!(text.contains("it imports `kv`, and `grants.kv` allows nothing: its calls answer `not-granted`"), "{text}");
    assert!(text.contains("filter `mine`: it takes its config"), "{text}");
    let (code, text, _) = config("config = { configure = [{ do = 'refuse', message = 'on-request: no' }] }");
    assert!(code == 1 && text.contains("gateway.toml:4:"), "{text}");
    assert!(text.contains("filters.mine.config"), "{text}");
    let (code, text, _) = config("config = { on-request = [{ do = 'trap' }] }");
    assert!(code == 1 && text.contains("the hook on-request trapped"), "{text}");
    let (code, text, _) = run(folder.path(), &["plugin", "check", "gateway.toml"]);
    assert!(code == 1 && text.starts_with("error: gateway.toml: not a WebAssembly component"), "{text}");
}

#[test]
fn bench_measures_both_modes() {
    let cases = Cases::new(LIMIT);
    let (code, text, stderr) = cases.run(&["plugin", "bench", "--requests", "60", "--case", "first", "--json"]);
    assert_eq!(code, 0, "{stderr}");
    let json: Value = serde_json::from_str(&text).expect("JSON");
    let costs = json["costs"].as_array().expect("costs");
    let modes: Vec<_> = costs.iter().filter(|cost| cost["hook"] == "on-request").map(|cost| &cost["mode"]).collect();
    assert_eq!(modes, ["reused", "fresh"], "{json}");
    assert!(costs.iter().all(|cost| cost["time_us"].as_f64() > Some(0.0)), "{json}");
    assert!(costs[0]["host_calls"].as_u64() > Some(0) && costs[0]["instructions"].as_u64() > Some(0), "{json}");
    let (code, text, _) = cases.run(&["plugin", "bench", "--requests", "10"]);
    assert!(code == 0 && text.contains("host calls"), "{text}");
}

/// From nothing to cases that pass, with the commands of the README alone.
#[track_caller]
fn from_nothing(language: &str, tools: Option<()>, component: &str) {
    if tools.is_none() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let (code, made, stderr) = run(folder.path(), &["plugin", "new", "my-stamp", "--lang", language]);
    assert!(code == 0 && made.contains("./my-stamp/README.md\n"), "{made}{stderr}");
    let project = folder.path().join("my-stamp");
    if language == "rust" {
        // The versions of the workspace: those are on this machine. Compiled crates are kept from run to run.
        fs::copy(root().join("Cargo.lock"), project.join("Cargo.lock")).expect("a lock file");
        fs::create_dir_all(target().join("docs")).expect("a folder");
        symlink(target().join("docs"), project.join("target")).expect("a link");
    }
    let (code, built, stderr) = run(&project, &["plugin", "build"]);
    assert!(code == 0 && built.contains(component) && built.contains("on-response"), "{built}{stderr}");
    let component = project.join(component);
    let (code, text, stderr) = run(&project, &["plugin", "test", "--component", &component.display().to_string()]);
    assert!(code == 0 && text.ends_with("2 cases: 2 passed, 0 failed\n"), "{text}{stderr}");
    let natively: &[&str] = match language {
        "go" | "python" => &["make", "test"],
        "javascript" | "typescript" => &["node", "--test"],
        _ => return,
    };
    let mut tests = Command::new(natively[0]);
    let output = with_tools(tests.args(&natively[1..]).current_dir(&project)).output().expect("its tests");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
}

#[test]
fn a_new_project_in_rust() {
    from_nothing("rust", Some(()), "target/wasm32-wasip2/release/my_stamp.wasm");
}

#[test]
fn a_new_project_in_c() {
    from_nothing("c", tools::need(["make", "clang-14", "sluice-componentize"]).map(drop), "build/my-stamp.wasm");
}

#[test]
fn a_new_project_in_zig() {
    from_nothing(
        "zig",
        tools::need(["make", "python", "python-zig", "sluice-componentize"]).map(drop),
        "build/my-stamp.wasm",
    );
}

#[test]
fn a_new_project_in_go() {
    from_nothing("go", tools::need(["make", "go", "sluice-componentize"]).map(drop), "build/my-stamp.wasm");
}

#[test]
fn a_new_project_in_javascript() {
    from_nothing("javascript", tools::need(["node"]).map(drop), "build/my-stamp.wasm");
}

#[test]
fn a_new_project_in_typescript() {
    from_nothing("typescript", tools::need(["node"]).map(drop), "build/my-stamp.wasm");
}

#[test]
fn a_new_project_in_python() {
    from_nothing("python", tools::need(["make", "python", "componentize-py"]).map(drop), "build/my-stamp.wasm");
}

#[test]
fn a_build_says_what_is_missing_and_how_to_get_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let (code, _, stderr) = run(folder.path(), &["plugin", "build"]);
    let known = "no project in a language that is known (rust, go, typescript, javascript, python, zig, c)";
    assert!(code == 1 && stderr.contains(known), "{stderr}");
    for (language, missing) in [
        ("rust", "  cargo is missing: install Rust with rustup"),
        ("c", "  a clang for wasm32-wasi, with wasi-libc is missing: apt install clang"),
        ("zig", "  Zig 0.17 is missing: pip install ziglang==0.17.1"),
        ("go", "  Go 1.24 is missing: "),
        ("typescript", "  TypeScript is missing: npm install"),
        ("javascript", "  componentize-qjs is missing: npm install"),
        ("python", "is missing: pip install componentize-py==0.25.0"),
    ] {
        let (code, _, stderr) = run(folder.path(), &["plugin", "new", language, "--lang", language]);
        assert_eq!(code, 0, "{stderr}");
        let mut command = Command::new(gateway::binary());
        command.args(["plugin", "build", language]).current_dir(folder.path()).env("PATH", "/nowhere");
        let output = command.output().expect("sluice");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && stderr.contains(missing), "{language}: {stderr}");
    }
}
