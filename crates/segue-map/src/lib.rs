//! Mapping engine (under construction).
#![no_std]
