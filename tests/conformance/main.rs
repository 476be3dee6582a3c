//! The published interface: it parses, each combination of hooks makes a component, and the shipped plugins use nothing else.

mod wit;
