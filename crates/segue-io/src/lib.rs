//! Data plane (under construction).
