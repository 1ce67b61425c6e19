//! Why a key file is refused, in words an operator can act on.
//!
//! May name files and sizes, never anything of a private key.

use super::MAX_KEYS;

/// Why keys cannot be used. Shown at start, so it names the file; it holds nothing of a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No file was given.
    #[error("no key file is configured")]
    NoFile,
    /// More than four keys.
    #[error("{file}: more than {MAX_KEYS} keys of one kind")]
    TooMany {
        /// The file with the first key too many.
        file: String,
    },
    /// One file or block is unusable.
    #[error("{file}: {fault}")]
    Unusable {
        /// The file.
        file: String,
        /// What is wrong with it.
        fault: KeyFault,
    },
}

/// What is wrong with a key file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    /// No bytes, or white space only.
    #[error("the file is empty")]
    Empty,
    /// No readable PEM block (RFC 7468), or one that is cut off.
    #[error("not PEM: expected -----BEGIN … KEY----- and its matching end around base64")]
    Garbled,
    /// A certificate.
    #[error("this is a certificate; extract its key with: openssl x509 -pubkey -noout")]
    Certificate,
    /// OpenSSH's own format.
    #[error("this is an OpenSSH key; convert it with: ssh-keygen -p -m PKCS8 (or -e -m PKCS8)")]
    OpenSsh,
    /// Protected by a passphrase.
    #[error("this private key is encrypted; the gateway has no passphrase for it")]
    Encrypted,
    /// Any other label.
    #[error(
        "this is no RSA key: expected a PUBLIC KEY, RSA PUBLIC KEY, PRIVATE KEY or RSA PRIVATE KEY block"
    )]
    NotRsa,
    /// A private key where signatures are verified.
    #[error(
        "this is a private key; the gateway verifies with the public one, and must not be able to sign"
    )]
    PrivateForSigning,
    /// A public key where a private one is needed.
    #[error("this is a public key; signing needs the private one")]
    PublicForMinting,
    /// Several keys where there can be one.
    #[error("expected one key, found several")]
    Several,
    /// Below 1024 bits.
    #[error(
        "the key has {0} bits, and at least 1024 are needed: a 512-bit key is factored in hours and cannot seal a pod's name; make keys of 2048 bits"
    )]
    TooSmall(usize),
    /// Above 8192 bits.
    #[error("the key has {0} bits; the limit is 8192")]
    TooLarge(usize),
    /// The block's contents are not a sound RSA key of the labelled kind.
    #[error("the block does not hold a sound RSA key of the kind its label says")]
    Invalid,
    /// A default key whose private half is on the internet.
    #[error(
        "this is a default key of the oc.nginx image; its private half is public, so anyone could make tokens: make your own keys"
    )]
    Published,
    /// It parsed, and did not do its work.
    #[error("the key parses, but failed its self-test")]
    SelfTest,
}
