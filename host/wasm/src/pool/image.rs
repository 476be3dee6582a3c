//! An image of a filter that has taken its config: a module whose memory and globals are those of an instance after `configure`. Fresh
//! instances are made of it, and none of them has to start or to be configured.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use tracing::info;
use wasmtime::{ModuleExport, Val};
use wasmtime_wizer::{InstanceState, ModuleContext, SnapshotVal, ValType, Wizer};

use super::instance::Instance;
use super::plugin::Plugin;
use super::restore::Pristine;
use crate::backend::Code;
use crate::backend::direct::DirectCode;
use crate::call::state::{FilterShared, HostResources};
use crate::filter::FilterError;
use crate::load::Runtime;

/// Larger modules have no image: it would take long to compile, at each change of the configuration.
const MAX_MODULE: usize = 8 << 20;
/// Up to this size the engine maps what memory begins with, and copies a page only when it is written to.
const MAX_MEMORY: usize = 16 << 20;

/// What fresh instances of a filter are made of.
pub(crate) struct Image {
    runtime: Arc<Runtime>,
    code: DirectCode,
    /// What `configure` had the host keep.
    resources: Mutex<HostResources>,
    /// None where instances can't be restored: each serves one exchange.
    pristine: Option<Pristine>,
}

/// The code of a plugin that lets its memory and globals be read. It is the same to the gateway in all else.
pub(crate) struct Opened<'a> {
    wizer: Wizer,
    context: ModuleContext<'a>,
    runtime: Arc<Runtime>,
    code: DirectCode,
    /// As the log calls what is compiled.
    name: String,
}

impl<'a> Opened<'a> {
    /// Compiles it. Errors say why there can be no image.
    pub(crate) fn new(plugin: &Plugin, name: &str, component: &'a [u8]) -> Result<Opened<'a>, String> {
        let direct = match &plugin.code {
            Code::Direct(direct) => direct,
            Code::Component { why, .. } => return Err(format!("it is not called directly: {why}")),
        };
        let bytes = direct.module_of(component)?;
        if bytes.len() > MAX_MODULE {
            return Err(format!("its module has {} bytes, more than {MAX_MODULE}", bytes.len()));
        }
        let (wizer, context, opened) = instrumented(bytes)?;
        let code = direct.opened(&plugin.runtime, name, &opened)?;
        Ok(Opened { wizer, context, runtime: plugin.runtime.clone(), code, name: name.to_owned() })
    }

    /// An instance whose state can be read.
    pub(crate) async fn instance(&self, shared: &Arc<FilterShared>) -> Result<Instance, FilterError> {
        Instance::create_direct(&self.runtime, &self.code, shared, Box::default()).await
    }

    /// The image of an instance of this plugin that was configured and has seen no call. The instance can't be used any more.
    pub(crate) async fn image(&self, mut instance: Instance) -> Result<Image, String> {
        let module = instance.guest.as_direct().ok_or("it is not called directly")?.instance;
        let state = instance.store.data_mut();
        if state.handles > 0 {
            return Err(format!(
                "after `configure` it holds {} handles of the gateway, such as that of its standard output",
                state.handles
            ));
        }
        if state.drew {
            return Err("`configure` drew random numbers, which would be the same for each exchange".into());
        }
        if state.memory.bytes > MAX_MEMORY {
            let bytes = state.memory.bytes;
            return Err(format!("after `configure` it has {bytes} bytes of memory, more than {MAX_MEMORY}"));
        }
        let mut reader = Reader { instance, module, is_complete: true };
        let bytes = {
            let mut snapshot = pin!(self.wizer.snapshot(&self.context, &mut reader));
            std::future::poll_fn(|cx| match caught(|| snapshot.as_mut().poll(cx)) {
                Ok(Poll::Pending) => Poll::Pending,
                Ok(Poll::Ready(bytes)) => Poll::Ready(bytes.map_err(|error| format!("{error:#}"))),
                Err(panic) => Poll::Ready(Err(panic)),
            })
            .await?
        };
        if !reader.is_complete {
            return Err("its state can't be read".into());
        }
        let shared = reader.instance.store.data().shared.clone();
        let resources = *reader.instance.into_resources();
        // Its state has to be read and written for as long as it lives, and the exports for that are gone.
        let (_, _, bytes) = instrumented(&bytes)?;
        let code = self.code.image(&self.runtime, &self.name, &bytes)?;
        let globals = code.globals();
        let mut image = Image { runtime: self.runtime.clone(), code, resources: Mutex::new(resources), pristine: None };
        image.pristine = image.read(&shared, &globals).await;
        if image.pristine.is_none() {
            info!(filter = %shared.name, "each instance of this fresh filter serves one exchange: none can be restored here");
        }
        Ok(image)
    }
}

impl Image {
    /// What the host keeps for a configured filter, as `configure` left it.
    pub(crate) fn resources(&self) -> Box<HostResources> {
        Box::new(self.resources.lock().unwrap_or_else(PoisonError::into_inner).anew())
    }

    /// Whether it imports functions that can wait, and so has no instances at once.
    pub(crate) fn waits(&self) -> bool {
        self.code.waits
    }

    /// Makes an instance that has served an exchange what it was before, or says that this can't be done.
    pub(crate) fn restore(&self, instance: &mut Instance) -> bool {
        let (Some(pages), Some(pristine)) = (&self.runtime.pages, &self.pristine) else { return false };
        pristine.restore(pages, instance)
    }

    /// What instances are restored to, if that works here.
    async fn read(&self, shared: &Arc<FilterShared>, globals: &[ModuleExport]) -> Option<Pristine> {
        let pages = self.runtime.pages.as_ref()?;
        let mut first = self.instance(shared, self.resources()).await.ok()?;
        let mut second = self.instance(shared, self.resources()).await.ok()?;
        Pristine::of(&mut first, globals).filter(|pristine| pristine.is_proven(pages, &mut second))
    }

    /// An instance, on this thread. No code of the guest runs: its start functions have run in the instance of which this is an image.
    pub(crate) fn instance_now(
        &self,
        shared: &Arc<FilterShared>,
        resources: Box<HostResources>,
    ) -> Result<Instance, FilterError> {
        Instance::create_now(&self.runtime, &self.code, shared, resources)
    }

    /// An instance. Only one of a plugin that waits has to be made on a fiber.
    pub(crate) async fn instance(
        &self,
        shared: &Arc<FilterShared>,
        resources: Box<HostResources>,
    ) -> Result<Instance, FilterError> {
        if self.waits() {
            Instance::create_direct(&self.runtime, &self.code, shared, resources).await
        } else {
            self.instance_now(shared, resources)
        }
    }
}

/// A module with exports of all its state.
fn instrumented(bytes: &[u8]) -> Result<(Wizer, ModuleContext<'_>, Vec<u8>), String> {
    let mut wizer = Wizer::new();
    // There is none, and whatever has that name is to stay.
    wizer.keep_init_func(true);
    let (context, opened) = caught(|| wizer.instrument(bytes))?.map_err(|error| format!("{error:#}"))?;
    Ok((wizer, context, opened))
}

/// Wizer asserts what it believes of a module, and its module is anybody's.
fn caught<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|_| "the module is too unusual to make an image of".into())
}

/// How the state of an instance is read. What can't be read is zero, and there will be no image.
struct Reader {
    instance: Instance,
    module: wasmtime::Instance,
    is_complete: bool,
}

impl InstanceState for Reader {
    async fn global_get(&mut self, name: &str, _: ValType) -> SnapshotVal {
        let store = &mut self.instance.store;
        let value = self.module.get_global(&mut *store, name).map(|global| global.get(&mut *store));
        match value {
            Some(Val::I32(value)) => SnapshotVal::I32(value),
            Some(Val::I64(value)) => SnapshotVal::I64(value),
            Some(Val::F32(bits)) => SnapshotVal::F32(bits),
            Some(Val::F64(bits)) => SnapshotVal::F64(bits),
            Some(Val::V128(value)) => SnapshotVal::V128(value.as_u128()),
            _ => {
                self.is_complete = false;
                SnapshotVal::I32(0)
            }
        }
    }

    async fn memory_contents(&mut self, name: &str, contents: impl FnOnce(&[u8]) + Send) {
        let store = &mut self.instance.store;
        match self.module.get_memory(&mut *store, name) {
            Some(memory) => contents(memory.data(&*store)),
            None => {
                self.is_complete = false;
                contents(&[]);
            }
        }
    }
}
