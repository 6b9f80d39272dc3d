//! Subject keys: the pseudonyms under which people appear in the tables.
//!
//! `subject_key = HMAC-SHA-256(pepper, user id)`, cut to 128 bits. The raw id never lands: it is replaced inside
//! the payload at the edge, before anything is buffered. Whoever holds the pepper can find a person's rows again
//! (for an erasure), nobody else can.

use std::fmt;

use hmac::{Hmac, Mac};
use sha2::Sha256;

/// The secret that subject keys are made with. Its `Debug` shows nothing.
#[derive(Clone)]
pub struct Pepper(Vec<u8>);

impl fmt::Debug for Pepper {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Pepper(…)")
    }
}

/// A person's pseudonym: `sk_` and 32 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubjectKey(String);

impl SubjectKey {
    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key as owned text.
    pub fn into_string(self) -> String {
        self.0
    }
}

impl Pepper {
    /// The shortest secret that is accepted, in bytes.
    pub const SHORTEST: usize = 16;

    /// A pepper from a secret.
    ///
    /// # Errors
    /// A sentence, when the secret is shorter than [`Self::SHORTEST`] bytes.
    pub fn new(secret: impl Into<Vec<u8>>) -> Result<Self, String> {
        let secret = secret.into();
        if secret.len() < Self::SHORTEST {
            return Err(format!(
                "the subject pepper has {} bytes, at least {} are needed; make one with `openssl rand -hex 32`",
                secret.len(),
                Self::SHORTEST
            ));
        }
        Ok(Self(secret))
    }

    /// The subject key of a user id.
    pub fn subject_key(&self, user_id: &str) -> SubjectKey {
        // HMAC takes keys of any length, so this constructor cannot fail; an empty code is never reached.
        let Ok(mut mac) = <Hmac<Sha256> as Mac>::new_from_slice(&self.0) else {
            return SubjectKey(String::new());
        };
        mac.update(user_id.as_bytes());
        let digest = mac.finalize().into_bytes();
        SubjectKey(format!("sk_{}", hex(digest.get(..16).unwrap_or_default())))
    }
}

/// Lower-case hexadecimal digits of `bytes`.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_depends_on_user_and_pepper() {
        let one = Pepper::new("0123456789abcdef").unwrap();
        let two = Pepper::new("fedcba9876543210").unwrap();
        assert_eq!(one.subject_key("ann"), one.subject_key("ann"));
        assert_ne!(one.subject_key("ann"), one.subject_key("bob"));
        assert_ne!(one.subject_key("ann"), two.subject_key("ann"));
        assert_eq!(one.subject_key("ann").as_str().len(), 35);
    }

    #[test]
    fn a_short_secret_is_refused_with_advice() {
        assert!(Pepper::new("short").unwrap_err().contains("openssl rand"));
    }

    #[test]
    fn the_secret_does_not_print() {
        let pepper = Pepper::new("0123456789abcdef").unwrap();
        assert!(!format!("{pepper:?}").contains("0123"));
    }
}
