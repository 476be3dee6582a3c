//! Rules of HTTP that need no other module.

pub mod body;
