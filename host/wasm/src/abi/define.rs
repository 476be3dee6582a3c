//! Functions of the gateway, each defined once: for components that wasmtime runs, and for core modules that are called directly.

use std::mem::MaybeUninit;
use std::pin::Pin;

use wasmtime::component::LinkerInstance;
use wasmtime::{
    AsContextMut, Caller, FuncType, Linker, Memory, Result as Outcome, StoreContextMut, Val, ValRaw, ValType, bail,
};

use super::{Args, Lower, OwnedParams, Params, Sink, Source};
use crate::call::guest::ready;
use crate::call::state::CallState;
use crate::load::unbundle::{Import, Imported};

/// Where the functions of one interface are defined. An error of theirs is a trap.
pub(crate) trait Define {
    /// A function that answers something.
    fn function<P: Params, R: Lower>(
        &mut self,
        name: &str,
        run: impl for<'a> Fn(&'a mut CallState, P::Of<'a>) -> Outcome<R> + Copy + Send + Sync + 'static,
    ) -> Outcome<()>;

    /// A function that answers nothing.
    fn procedure<P: Params>(
        &mut self,
        name: &str,
        run: impl for<'a> Fn(&'a mut CallState, P::Of<'a>) -> Outcome<()> + Copy + Send + Sync + 'static,
    ) -> Outcome<()>;

    /// A function that may wait for its answer. Whatever calls it is called on a fiber.
    fn waiting<P: OwnedParams, R: Lower>(
        &mut self,
        name: &str,
        run: impl for<'a> Fn(StoreContextMut<'a, CallState>, P::Owned) -> Answering<'a, R> + Copy + Send + Sync + 'static,
    ) -> Outcome<()>;
}

/// The answer of a function that may wait for it.
pub(crate) type Answering<'a, R> = Pin<Box<dyn Future<Output = Outcome<R>> + Send + 'a>>;

impl Define for LinkerInstance<'_, CallState> {
    fn function<P: Params, R: Lower>(
        &mut self,
        name: &str,
        run: impl for<'a> Fn(&'a mut CallState, P::Of<'a>) -> Outcome<R> + Copy + Send + Sync + 'static,
    ) -> Outcome<()> {
        self.func_wrap(name, move |mut cx: StoreContextMut<'_, CallState>, owned: P::Owned| {
            Ok((run(cx.data_mut(), P::of(&owned))?,))
        })
    }

    fn procedure<P: Params>(
        &mut self,
        name: &str,
        run: impl for<'a> Fn(&'a mut CallState, P::Of<'a>) -> Outcome<()> + Copy + Send + Sync + 'static,
    ) -> Outcome<()> {
        self.func_wrap(name, move |mut cx: StoreContextMut<'_, CallState>, owned: P::Owned| {
            run(cx.data_mut(), P::of(&owned))
        })
    }

    fn waiting<P: OwnedParams, R: Lower>(
        &mut self,
        name: &str,
        run: impl for<'a> Fn(StoreContextMut<'a, CallState>, P::Owned) -> Answering<'a, R> + Copy + Send + Sync + 'static,
    ) -> Outcome<()> {
        self.func_wrap_async(name, move |cx: StoreContextMut<'_, CallState>, owned: P::Owned| {
            Box::new(async move { Ok((run(cx, owned).await?,)) })
        })
    }
}

/// What a core module imports.
pub(crate) struct ModuleImports {
    pub(crate) linker: Linker<CallState>,
    /// What is not defined yet.
    pub(crate) left: Vec<Import>,
}

impl ModuleImports {
    /// Those of one interface, given without its version.
    pub(crate) fn of(&mut self, interface: String) -> InterfaceImports<'_> {
        InterfaceImports { imports: self, interface }
    }
}

/// What a core module imports of one interface.
pub(crate) struct InterfaceImports<'a> {
    imports: &'a mut ModuleImports,
    interface: String,
}

impl InterfaceImports<'_> {
    /// Has a function defined wherever the module imports it. Refuses one of another type.
    fn define(
        &mut self,
        name: &str,
        signature: &str,
        (params, results): (Vec<ValType>, Vec<ValType>),
        define: impl Fn(&mut Linker<CallState>, &Import, FuncType) -> Outcome<()>,
    ) -> Outcome<()> {
        let ModuleImports { linker, left } = &mut *self.imports;
        let ty = FuncType::new(linker.engine(), params, results);
        for import in left.extract_if(.., |import| import.is(&self.interface, name)) {
            if let Imported::Function { signature: imported, .. } = &import.what
                && imported != signature
            {
                bail!("`{name}` of `{}` is imported as {imported} and is {signature}", self.interface);
            }
            define(linker, &import, ty.clone())?;
        }
        Ok(())
    }

    /// The same with a function that does not wait. It reads and writes values of these types.
    fn define_raw(
        &mut self,
        name: &str,
        signature: &str,
        types: (Vec<ValType>, Vec<ValType>),
        run: impl Fn(Caller<'_, CallState>, &mut [MaybeUninit<ValRaw>]) -> Outcome<()> + Copy + Send + Sync + 'static,
    ) -> Outcome<()> {
        self.define(name, signature, types, |linker, import, ty| {
            #[allow(unsafe_code, reason = "the safe way copies all values twice")]
            // SAFETY: `run` reads and writes values of the types of which `ty` is made.
            unsafe {
                linker.func_new_unchecked(&import.module, &import.name, ty, run)?;
            }
            Ok(())
        })
    }
}

/// The types of the core values of a function, and its type.
fn types_of<P: Params, R: Lower>() -> ((Vec<ValType>, Vec<ValType>), String) {
    let (mut params, mut results) = (Vec::new(), Vec::new());
    P::flatten(&mut params);
    if R::FLAT {
        R::flatten(&mut results);
    } else {
        // Where the guest wants the answer.
        params.push(ValType::I32);
    }
    let mut signature = String::new();
    P::describe(&mut signature);
    signature.push_str(" -> ");
    R::describe(&mut signature);
    ((params, results), signature)
}

impl Import {
    /// Whether it is this function of this interface, whatever its version.
    fn is(&self, interface: &str, function: &str) -> bool {
        match &self.what {
            Imported::Function { interface: of, name, .. } => {
                name == function && of.split('@').next() == Some(interface)
            }
            Imported::Drop { .. } => false,
        }
    }
}

/// What arguments are read from, and the state. Where there is no memory yet, those that are mere numbers can be read.
fn split<'a>(memory: Option<Memory>, caller: &'a mut Caller<'_, CallState>) -> (&'a [u8], &'a mut CallState) {
    match memory {
        Some(memory) => {
            let (bytes, state) = memory.data_and_store_mut(caller);
            (bytes, state)
        }
        None => (&[], caller.data_mut()),
    }
}

impl Define for InterfaceImports<'_> {
    fn function<P: Params, R: Lower>(
        &mut self,
        name: &str,
        run: impl for<'a> Fn(&'a mut CallState, P::Of<'a>) -> Outcome<R> + Copy + Send + Sync + 'static,
    ) -> Outcome<()> {
        let (types, signature) = types_of::<P, R>();
        self.define_raw(name, &signature, types, move |mut caller, values| {
            let memory = caller.data().guest.calls()?;
            let (bytes, state) = split(memory, &mut caller);
            let (size, guest) = (bytes.len(), Source::new(bytes, state.transfer));
            #[allow(unsafe_code, reason = "see `Args::new`")]
            // SAFETY: exactly the values of `P`, and one for the place of the answer, are asked for, and they are the arguments.
            let mut args = unsafe { Args::new(values) };
            let params = P::lift(&mut args, &guest)?;
            if R::FLAT {
                let answer = run(state, params)?;
                if let Some(value) = values.first_mut() {
                    value.write(answer.raw());
                }
                return Ok(());
            }
            let (memory, place) = (ready(memory)?, args.u32()?);
            let answer = run(state, params)?;
            Sink { store: StoreContextMut::from(&mut caller), memory, size }.answer(place, answer)
        })
    }

    fn procedure<P: Params>(
        &mut self,
        name: &str,
        run: impl for<'a> Fn(&'a mut CallState, P::Of<'a>) -> Outcome<()> + Copy + Send + Sync + 'static,
    ) -> Outcome<()> {
        let (mut params, mut signature) = (Vec::new(), String::new());
        P::flatten(&mut params);
        P::describe(&mut signature);
        self.define_raw(name, &signature, (params, Vec::new()), move |mut caller, values| {
            let memory = caller.data().guest.calls()?;
            let (bytes, state) = split(memory, &mut caller);
            let guest = Source::new(bytes, state.transfer);
            #[allow(unsafe_code, reason = "see `Args::new`")]
            // SAFETY: exactly the values of `P` are asked for, and they are the arguments.
            let mut args = unsafe { Args::new(values) };
            let params = P::lift(&mut args, &guest)?;
            run(state, params)
        })
    }

    fn waiting<P: OwnedParams, R: Lower>(
        &mut self,
        name: &str,
        run: impl for<'a> Fn(StoreContextMut<'a, CallState>, P::Owned) -> Answering<'a, R> + Copy + Send + Sync + 'static,
    ) -> Outcome<()> {
        let (types, signature) = types_of::<P, R>();
        self.define(name, &signature, types, |linker, import, ty| {
            linker.func_new_async(&import.module, &import.name, ty, move |mut caller, values, results| {
                Box::new(async move {
                    let memory = caller.data().guest.called()?;
                    let (owned, place) = {
                        let values: Vec<_> = values.iter().map(raw).collect();
                        let guest = Source::new(memory.data(&caller), caller.data().transfer);
                        #[allow(unsafe_code, reason = "see `Args::new`")]
                        // SAFETY: all of them are initialised.
                        let mut args = unsafe { Args::new(&values) };
                        let owned = P::keep(P::lift(&mut args, &guest)?);
                        (owned, if R::FLAT { 0 } else { args.u32()? })
                    };
                    let answer = run(caller.as_context_mut(), owned).await?;
                    match results.first_mut() {
                        Some(_) => bail!("no function that waits answers one value"),
                        None => {
                            let size = memory.data_size(&caller);
                            Sink { store: caller.as_context_mut(), memory, size }.answer(place, answer)
                        }
                    }
                })
            })?;
            Ok(())
        })
    }
}

fn raw(value: &Val) -> MaybeUninit<ValRaw> {
    MaybeUninit::new(match value {
        Val::I32(value) => ValRaw::i32(*value),
        Val::I64(value) => ValRaw::i64(*value),
        Val::F64(bits) => ValRaw::f64(*bits),
        _ => ValRaw::i32(0),
    })
}
