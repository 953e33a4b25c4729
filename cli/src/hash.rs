//! SHA-256 as text.

use sha2::{Digest, Sha256};

/// The hash in hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}
