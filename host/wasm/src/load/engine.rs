//! The engine all plugins run on: its settings, its pool of memories, and the thread that ticks its epoch.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use sluice_http::http::buffer::MemoryBudget;
use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig};

use crate::filter::RuntimeError;
use crate::filter::observer::Observer;
use crate::filter::stats::Accounts;
use crate::load::aside::Aside;
use crate::load::cache::Cache;
use crate::load::compile::CompilerCommand;
use crate::load::pages::PageMap;
use crate::load::process::{CompileLimits, Compiler, Interrupt};
use crate::load::quota::InstanceQuota;
use crate::load::ticker::Ticker;

/// The wasm stack of a call. Interpreters need more than small Rust guests do.
const WASM_STACK: usize = 256 << 10;
/// A fiber carries the wasm stack, another one for a guest that makes room for an answer, and what the host needs on top of them.
const FIBER_STACK: usize = 2 * WASM_STACK + (256 << 10);
/// Calls that can be on a fiber at once. Each takes two mappings, used or not.
const MAX_STACKS: u32 = 4_000;

/// How large the engine's pool is. All of it is address space, not memory, until it is used.
#[derive(Debug, Clone)]
pub struct RuntimeOptions {
    /// Instances of all filters and workers that can exist at once.
    pub instances: u32,
    /// The most linear memory that the limits of a filter can allow, in bytes.
    pub max_memory: usize,
    /// The most elements of a table that the limits of a filter can allow.
    pub max_table_elements: usize,
    /// Where compiled components are kept; `None` compiles at every start.
    pub cache: Option<PathBuf>,
    /// What compiles; `None` compiles in this process.
    pub compiler: Option<CompilerCommand>,
    /// The epoch's tick: the unit of CPU deadlines.
    pub tick: Duration,
    /// What the host keeps for exchanges at the wish of filters is charged to it.
    pub budget: MemoryBudget,
    /// Who sees the calls of filters, for tests of them: calls then are slower, and their instructions are counted. A compiler of its own
    /// (`compiler`) does not know of it.
    pub observer: Option<Arc<Observer>>,
}

impl Default for RuntimeOptions {
    fn default() -> Self {
        RuntimeOptions {
            instances: 2_000,
            max_memory: 256 << 20,
            max_table_elements: 20_000,
            cache: None,
            compiler: None,
            tick: Duration::from_millis(1),
            budget: MemoryBudget::new(256 << 20),
            observer: None,
        }
    }
}

/// The wasm engine of the process. It lives as long as the process or test does; plugins and filters keep it alive.
pub struct Runtime {
    pub(crate) engine: Engine,
    pub(crate) cache: Option<Cache>,
    pub(crate) options: RuntimeOptions,
    pub(crate) compiler: Compiler,
    pub(crate) ticker: Arc<Ticker>,
    pub(crate) accounts: Accounts,
    pub(crate) waiting: InstanceQuota,
    pub(crate) kept: InstanceQuota,
    pub(crate) pages: Option<PageMap>,
    pub(crate) aside: Aside,
    thread: Option<JoinHandle<()>>,
}

impl Runtime {
    /// Starts the engine and its ticker thread.
    pub fn new(options: RuntimeOptions) -> Result<Arc<Runtime>, RuntimeError> {
        let engine = Engine::new(&config(&options)).map_err(|e| RuntimeError::Engine(format!("{e:#}")))?;
        let ticker = Arc::new(Ticker::default());
        let thread = std::thread::Builder::new()
            .name("wasm-ticker".into())
            .spawn({
                let (engine, ticker, tick) = (engine.clone(), ticker.clone(), options.tick);
                move || ticker.run(&engine, tick)
            })
            .map_err(RuntimeError::Ticker)?;
        let cache = options.cache.as_deref().and_then(|dir| Cache::open(dir, &engine));
        Ok(Arc::new(Runtime {
            engine,
            cache,
            waiting: InstanceQuota::of(options.instances),
            kept: InstanceQuota::of(options.instances),
            options,
            compiler: Compiler::default(),
            ticker,
            accounts: Accounts::default(),
            pages: PageMap::open(),
            aside: Aside::default(),
            thread: Some(thread),
        }))
    }

    /// What compilations that begin from now on may take.
    pub fn set_compile_limits(&self, limits: CompileLimits) {
        self.compiler.set_limits(limits);
    }

    /// Interrupts loads that wait for a compilation.
    pub fn interrupt(&self) -> &Arc<Interrupt> {
        &self.compiler.interrupt
    }

    /// Ends the compilation that an interrupted load has left, if no load has taken it over.
    pub fn end_left_compilation(&self) {
        self.compiler.end_left();
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.ticker.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // The thread only sleeps and ticks: it can't have panicked, and if it had there would be nothing to do.
            let _ = thread.join();
        }
    }
}

pub(crate) fn config(options: &RuntimeOptions) -> Config {
    let mut pool = PoolingAllocationConfig::new();
    // What components of seven languages need (up to 16 core instances, in Python some 40; 4 memories, 4 tables); the totals
    // assume that most are
    // small ones, and running out is an error of that call, not of the process.
    pool.max_core_instances_per_component(64)
        .max_memories_per_component(4)
        .max_tables_per_component(4)
        .max_tables_per_module(4)
        .max_memories_per_module(1)
        .max_component_instance_size(1 << 20)
        .max_core_instance_size(1 << 20)
        .total_component_instances(options.instances)
        .total_core_instances(options.instances.saturating_mul(4))
        .total_memories(options.instances)
        .total_tables(options.instances.saturating_mul(2))
        .total_stacks(options.instances.min(MAX_STACKS))
        .table_elements(options.max_table_elements)
        .max_memory_size(options.max_memory)
        .max_unused_warm_slots(64)
        .table_keep_resident(8 << 10)
        // It takes a page that was swapped out for one that was never written to, and leaves it to the next instance.
        .pagemap_scan(Enabled::No);
    let mut config = Config::new();
    config
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        .cranelift_opt_level(OptLevel::Speed)
        // Costs a factor of two to three on every call, and the interface is synchronous.
        .concurrency_support(false)
        .epoch_interruption(true)
        .consume_fuel(options.observer.is_some())
        .max_wasm_stack(WASM_STACK)
        .async_stack_size(FIBER_STACK);
    config
}
