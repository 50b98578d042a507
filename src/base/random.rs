//! Randomness from a seed, and the one place that takes a seed from the machine.

pub use fastrand::Rng;

/// A generator seeded by the operating system.
#[must_use]
#[allow(clippy::disallowed_methods)] // The one place.
pub fn from_system() -> Rng {
    Rng::new()
}

/// A generator whose whole sequence follows from `seed`.
#[must_use]
pub fn from_seed(seed: u64) -> Rng {
    Rng::with_seed(seed)
}
