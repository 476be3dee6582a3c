//! Components whose functions take and answer nothing but numbers: they name no memory, and are called directly all the same.

use super::*;

/// Traps when an instance is called for the second time: it remembers the first in a memory that it keeps to itself.
fn guest() -> Vec<u8> {
    let text = r#"(component
        (core module $m
            (memory 1)
            (func (export "f")
                (if (i32.load8_u (i32.const 0)) (then unreachable))
                (i32.store8 (i32.const 0) (i32.const 1))))
        (core instance $i (instantiate $m))
        (func $f (canon lift (core func $i "f")))
        (instance $complete (export "on-complete" (func $f)))
        (export "sluice:filter/on-complete@0.1.1" (instance $complete)))"#;
    wat::parse_str(text).unwrap()
}

/// Calls the hook twice.
fn calls(mode: Mode) -> [bool; 2] {
    let runtime = runtime();
    let plugin = runtime.load(&guest()).unwrap();
    assert!(is_direct(&plugin), "{:?}", plugin.not_direct());
    let spec = ProgramSpec { component: Some(guest().into()), ..spec(mode, limits()) };
    let program = Arc::new(Program::new(plugin, spec).unwrap());
    run(async {
        let pool = Pool::new(program);
        let first = pool.call(Hook::OnComplete, exchange(), 0).await.1.is_ok();
        [first, pool.call(Hook::OnComplete, exchange(), 0).await.1.is_ok()]
    })
}

#[test]
fn a_component_that_names_no_memory_is_called_directly() {
    assert_eq!(calls(Mode::Reused), [true, false]);
}

#[test]
fn a_fresh_one_keeps_nothing_in_a_memory_that_it_does_not_name() {
    assert_eq!(calls(Mode::Fresh), [true, true]);
}
