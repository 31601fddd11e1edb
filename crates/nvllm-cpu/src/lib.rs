//! the fast CPU backend
