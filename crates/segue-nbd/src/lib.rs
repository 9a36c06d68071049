//! NBD protocol (under construction).
#![no_std]
