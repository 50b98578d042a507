//! A value that may be put in place of another while it is in use: the configuration, and what is
//! made of it.
//!
//! Whoever takes it keeps it for as long as one thing takes (a message, a decision); what comes
//! next takes it anew.

use arc_swap::ArcSwap;
use std::sync::Arc;

/// Clones are the same.
#[derive(Debug, Default)]
pub struct Live<T>(Arc<ArcSwap<T>>);

impl<T> Clone for Live<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> From<Arc<T>> for Live<T> {
    fn from(value: Arc<T>) -> Self {
        Self(Arc::new(ArcSwap::new(value)))
    }
}

impl<T> Live<T> {
    /// The one that holds now.
    #[must_use]
    pub fn get(&self) -> Arc<T> {
        self.0.load_full()
    }

    /// Puts another in its place. What was taken before goes on with the one before.
    pub fn set(&self, value: Arc<T>) {
        self.0.store(value);
    }
}
