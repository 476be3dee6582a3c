//! What one call of a filter works on: the data of its store, the clock that bounds it, and the services in its reach.

pub(crate) mod clock;
pub(crate) mod cpu;
pub(crate) mod guest;
pub(crate) mod names;
pub(crate) mod services;
pub(crate) mod state;
