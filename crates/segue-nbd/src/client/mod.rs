//! The client's half (under construction; the server half's API is stable).
