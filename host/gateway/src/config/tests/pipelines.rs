//! Groups of filters in pipelines.

use super::*;

#[test]
fn groups_are_read_with_their_defaults() {
    let text = "[routes.r]\nmatch = {}\nrespond = {}\npipeline = ['a', { any_of = ['b', { all_of = ['a', 'b'] }], try_next_on = [401, 403], optional = true }]\n\
                [routes.s]\nmatch = {}\nrespond = {}\npipeline = 'p'\n[filters.a]\n[filters.b]\n[pipelines]\np = [{ any_of = ['a'] }]\n";
    let config = config(text);
    let filter = |name: &str| Step::Filter(Name::from(name));
    let members = vec![filter("b"), Step::AllOf(vec![filter("a"), filter("b")])];
    let group = Step::AnyOf(AnyOf { members, try_next_on: TryNextOn(vec![401, 403]), optional: true });
    assert_eq!(config.routes[0].pipeline, [filter("a"), group.clone()]);
    assert_eq!(group.filters(), ["b", "a", "b"].map(Name::from).iter().collect::<Vec<_>>());
    let plain = AnyOf { members: vec![filter("a")], try_next_on: TryNextOn(vec![401]), optional: false };
    assert_eq!(config.routes[1].pipeline, [Step::AnyOf(plain)]);
}

#[test]
fn what_is_wrong_with_a_group() {
    let deep = "{ any_of = [{ all_of = [{ any_of = [{ all_of = [{ any_of = ['a'] }] }] }] }] }";
    for (group, expected) in [
        ("{}", "routes.r.pipeline[0]: expected the name of a filter, or a group with one of `any_of` and `all_of`"),
        (
            "{ any_of = ['a'], all_of = ['a'] }",
            "routes.r.pipeline[0]: expected the name of a filter, or a group with one of `any_of` and `all_of`",
        ),
        ("{ any_of = [] }", "routes.r.pipeline[0].any_of: expected at least one"),
        ("{ any_of = ['b'] }", "routes.r.pipeline[0].any_of[0]: unknown filter `b`"),
        ("{ all_of = ['a'], optional = true }", "routes.r.pipeline[0]: `optional` is only for `any_of`"),
        (
            "{ any_of = ['a'], try_next_on = [503] }",
            "routes.r.pipeline[0].try_next_on[0]: expected an integer from 400 to 499, found 503",
        ),
        (deep, ".all_of[0]: groups of filters nest at most 4 deep"),
    ] {
        let found = errors(&format!("[filters.a]\n[routes.r]\nmatch = {{}}\nrespond = {{}}\npipeline = [{group}]\n"));
        assert!(found.ends_with(expected) && found.lines().count() == 1, "of\n{group}\n{found}");
    }
}
