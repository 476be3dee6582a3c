//! An image of a filter that has taken its config: a component whose memory and globals are those of an instance after `configure`.
//! Fresh instances are made of it, and none of them has to start or to be configured.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use wasmparser::{CanonicalFunction, Parser, Payload};
use wasmtime::component::{Lift, WasmList};
use wasmtime_wizer::{ComponentContext, ComponentInstanceState, Wizer};

use super::FilterError;
use super::component::{self, Plugin};
use super::instance::Instance;
use super::state::{FilterShared, Kit};

/// Larger components have no image: it would take long to compile, at each change of the configuration.
const MAX_COMPONENT: usize = 8 << 20;
/// Up to this size the engine maps what memory begins with, and copies a page only when it is written to.
const MAX_MEMORY: usize = 16 << 20;

/// What fresh instances of a filter are made of.
pub(super) struct Image {
    plugin: Arc<Plugin>,
    /// What `configure` had the host keep.
    kit: Mutex<Kit>,
}

/// A component that lets its memory and globals be read. It is the same to the gateway in all else.
pub(super) struct Opened<'a> {
    wizer: Wizer,
    context: ComponentContext<'a>,
    pub(super) plugin: Arc<Plugin>,
}

impl<'a> Opened<'a> {
    /// Compiles it. Errors say why there can be no image.
    pub(super) fn new(plugin: &Plugin, bytes: &'a [u8]) -> Result<Opened<'a>, String> {
        if bytes.len() > MAX_COMPONENT {
            return Err(format!("the component has {} bytes, more than {MAX_COMPONENT}", bytes.len()));
        }
        check(bytes)?;
        let mut wizer = Wizer::new();
        // There is none, and whatever has that name is to stay.
        wizer.keep_init_func(true);
        let (context, opened) = caught(|| wizer.instrument_component(bytes))?.map_err(|error| format!("{error:#}"))?;
        let plugin = component::link(&plugin.runtime, &opened).map_err(|error| error.to_string())?;
        Ok(Opened { wizer, context, plugin: Arc::new(plugin) })
    }

    /// The image of an instance of this component that was configured and has seen no call. The instance can't be used any more.
    pub(super) async fn image(&self, mut instance: Instance) -> Result<Image, String> {
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
        // Reading takes a page for itself, and lifts all of the memory.
        state.memory.lift_limit();
        instance.store.set_hostcall_fuel(usize::MAX);
        let mut reader = Reader { instance, failed: None };
        let bytes = {
            let mut snapshot = pin!(self.wizer.snapshot_component(&self.context, &mut reader));
            std::future::poll_fn(|cx| match caught(|| snapshot.as_mut().poll(cx)) {
                Ok(Poll::Pending) => Poll::Pending,
                Ok(Poll::Ready(bytes)) => Poll::Ready(bytes.map_err(|error| format!("{error:#}"))),
                Err(panic) => Poll::Ready(Err(panic)),
            })
            .await
        };
        if let Some(why) = reader.failed {
            return Err(format!("its state can't be read: {why:#}"));
        }
        let kit = *reader.instance.into_kit();
        // It has all that the config has said, secrets included.
        let plugin = component::link_private(&self.plugin.runtime, &bytes?).map_err(|error| error.to_string())?;
        Ok(Image { plugin: Arc::new(plugin), kit: Mutex::new(kit) })
    }
}

impl Image {
    /// What the host keeps for a configured filter, as `configure` left it.
    pub(super) fn kit(&self) -> Box<Kit> {
        Box::new(self.kit.lock().unwrap_or_else(PoisonError::into_inner).anew())
    }

    /// Whether it imports functions that can wait, and so has no instances at once.
    pub(super) fn waits(&self) -> bool {
        self.plugin.waits
    }

    /// An instance, on this thread. No code of the guest runs: its start functions have run in the instance of which this is an image.
    pub(super) fn instance_now(&self, shared: &Arc<FilterShared>, kit: Box<Kit>) -> Result<Instance, FilterError> {
        Instance::create_now(&self.plugin, shared, kit)
    }

    /// An instance. Only one of a component that waits has to be made on a fiber.
    pub(super) async fn instance(&self, shared: &Arc<FilterShared>, kit: Box<Kit>) -> Result<Instance, FilterError> {
        if self.waits() { Instance::create(&self.plugin, shared, kit).await } else { self.instance_now(shared, kit) }
    }
}

/// What of a component is neither in memories nor in globals, and is not found by the one who makes the image.
pub(super) fn check(bytes: &[u8]) -> Result<(), String> {
    // Of the module that is read: whether it has state, and whether that can be exported.
    let (mut in_module, mut stateful, mut exports) = (false, false, false);
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(|error| error.to_string())? {
            Payload::ComponentCanonicalSection(functions) => {
                for function in functions {
                    if let CanonicalFunction::ResourceNew { .. } = function.map_err(|error| error.to_string())? {
                        return Err("the component makes resources of its own".into());
                    }
                }
            }
            Payload::ModuleSection { .. } => (in_module, stateful, exports) = (true, false, false),
            Payload::MemorySection(_) | Payload::GlobalSection(_) => stateful = true,
            Payload::ExportSection(_) => exports = true,
            Payload::End(_) if std::mem::take(&mut in_module) && stateful && !exports => {
                return Err("a module of the component has state and exports nothing".into());
            }
            _ => {}
        }
    }
    Ok(())
}

/// Wizer asserts what it believes of a component, and its component is anybody's.
fn caught<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|_| "the component is too unusual to make an image of".into())
}

/// How the state of an instance is read.
struct Reader {
    instance: Instance,
    failed: Option<wasmtime::Error>,
}

impl Reader {
    async fn read<T>(&mut self, instance: &str, func: &str) -> Option<T>
    where
        T: Lift + Send + Sync + 'static,
    {
        match self.instance.inspect::<(T,)>(instance, func).await {
            Ok((value,)) => Some(value),
            Err(error) => {
                self.failed.get_or_insert(error);
                None
            }
        }
    }
}

/// What can't be read is zero, and there will be no image.
impl ComponentInstanceState for Reader {
    async fn call_func_ret_list_u8(&mut self, instance: &str, func: &str, contents: impl FnOnce(&[u8]) + Send) {
        match self.read::<WasmList<u8>>(instance, func).await {
            Some(list) => contents(list.as_le_slice(&self.instance.store)),
            None => contents(&[]),
        }
    }

    async fn call_func_ret_s32(&mut self, instance: &str, func: &str) -> i32 {
        self.read(instance, func).await.unwrap_or_default()
    }

    async fn call_func_ret_s64(&mut self, instance: &str, func: &str) -> i64 {
        self.read(instance, func).await.unwrap_or_default()
    }

    async fn call_func_ret_f32(&mut self, instance: &str, func: &str) -> u32 {
        self.read::<f32>(instance, func).await.unwrap_or_default().to_bits()
    }

    async fn call_func_ret_f64(&mut self, instance: &str, func: &str) -> u64 {
        self.read::<f64>(instance, func).await.unwrap_or_default().to_bits()
    }
}
