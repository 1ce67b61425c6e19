//! The system's random numbers, in the form the `rsa` crate asks for.
//!
//! Only the side that makes tokens and keys, and the self-test of a payload key, draw from it.

use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand::fill;
use rsa::rand_core::{TryCryptoRng, TryRng, UnwrapErr};

/// A generator backed by aws-lc's, which seeds itself from the operating system.
///
/// `rsa` wants one that cannot fail. [`UnwrapErr`] panics if the system has no randomness to give,
/// which is the only safe answer.
pub(super) fn system() -> UnwrapErr<SystemRng> {
    UnwrapErr(SystemRng)
}

/// See [`system`].
pub(super) struct SystemRng;

impl TryRng for SystemRng {
    type Error = Unspecified;

    fn try_next_u32(&mut self) -> Result<u32, Unspecified> {
        let mut bytes = [0; 4];
        fill(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Unspecified> {
        let mut bytes = [0; 8];
        fill(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Unspecified> {
        fill(bytes)
    }
}

impl TryCryptoRng for SystemRng {}
