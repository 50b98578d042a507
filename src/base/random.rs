//! Randomness from a seed, and the one place that takes seeds and secrets from the machine.

use aws_lc_rs::error::Unspecified;

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

/// Bytes that nobody can foresee: for salts, nonces and secrets.
///
/// # Errors
/// The operating system has none.
pub fn unforeseeable<const N: usize>() -> Result<[u8; N], Unspecified> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes)?;
    Ok(bytes)
}
