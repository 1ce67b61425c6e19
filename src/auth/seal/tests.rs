//! Seals that open and seals that must not, down to single bytes of padding.

use rsa::hazmat::rsa_decrypt;
use rsa::traits::PublicKeyParts;

use super::*;
use crate::auth::testing::*;

const TEXT: &[u8] = b"10.42.0.7";

/// Applies the public or the private operation to a block, as big-endian bytes.
fn raw(pair: &Pair, private: bool, block: &[u8]) -> Vec<u8> {
    let number = BoxedUint::from_be_slice(block, pair.key.n_bits_precision()).unwrap();
    let result = if private {
        rsa_decrypt(None::<&mut crate::auth::random::SystemRng>, &pair.key, &number).unwrap()
    } else {
        rsa_encrypt(&pair.key, &number).unwrap()
    };
    result.to_be_bytes().to_vec()
}

/// `00 kind PS.. 00 text`, filling `size` bytes.
fn block(size: usize, kind: u8, filler: u8, text: &[u8]) -> Vec<u8> {
    let mut block = vec![filler; size - text.len()];
    block[0] = 0;
    block[1] = kind;
    *block.last_mut().unwrap() = 0;
    block.extend_from_slice(text);
    block
}

/// Wrong blocks of one type: each breaks one rule.
fn wrong_blocks(size: usize, kind: u8, filler: u8) -> Vec<(&'static str, Vec<u8>)> {
    let good = block(size, kind, filler, TEXT);
    let with = |at: usize, byte: u8| {
        let mut block = good.clone();
        block[at] = byte;
        block
    };
    let short_padding = [&[0, kind][..], &[filler; 7], &[0], &vec![b'x'; size - 10]].concat();
    vec![
        ("type 0", with(1, 0)),
        ("other type", with(1, 3 - kind)),
        ("type 3", with(1, 3)),
        ("first byte", with(0, 1)),
        ("zero in the first eight", with(5, 0)),
        ("seven bytes of padding", short_padding),
        ("no separator", [&[0, kind][..], &vec![filler; size - 2]].concat()),
        ("zero", vec![0; size]),
        ("one", [&vec![0; size - 1][..], &[1]].concat()),
    ]
}

/// Seals of a wrong length or range; `n` is the modulus.
fn wrong_numbers(good: &[u8], n: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("empty", Vec::new()),
        ("short", good[1..].to_vec()),
        ("cut", good[..good.len() - 1].to_vec()),
        ("leading zero", [&[0], good].concat()),
        ("trailing zero", [good, &[0]].concat()),
        ("n", n.to_vec()),
        ("all ones", vec![0xff; n.len()]),
        ("twice", good.repeat(2)),
    ]
}

/// `None`, or an implicit rejection's random bytes, which no policy takes.
fn assert_refused(key: &PayloadKey, sealed: &[u8], what: &str) {
    if let Some(text) = open_with(key, sealed) {
        assert_ne!(&text[..], TEXT, "{what}");
        assert!(policy().confine(&text).is_err(), "{what}");
    }
}

#[test]
fn private_keys_open_type_2_only() {
    for pair in [payload(), medium()] {
        let keys = payload_keys(&pair.pkcs8);
        let key = keys.iter().next().unwrap();
        let size = pair.key.size();
        let good = raw(pair, false, &block(size, 2, 0xab, TEXT));
        assert_eq!(&open_with(key, &good).unwrap()[..], TEXT);
        let longest = raw(pair, false, &block(size, 2, 0xab, &vec![b'a'; size - 11]));
        assert_eq!(open_with(key, &longest).unwrap().len(), size - 11);
        let empty = raw(pair, false, &block(size, 2, 0xab, b""));
        assert_eq!(open_with(key, &empty).unwrap().len(), 0);

        for (what, block) in wrong_blocks(size, 2, 0xab) {
            assert_refused(key, &raw(pair, false, &block), what);
        }
        for (what, sealed) in wrong_numbers(&good, &pair.key.n_bytes()) {
            assert_eq!(open_with(key, &sealed), None, "{what}");
        }
    }
}

#[test]
fn public_keys_open_type_1_only() {
    for pair in [payload(), medium()] {
        let keys = payload_keys(&pair.public_pkcs1);
        let key = keys.iter().next().unwrap();
        let size = pair.key.size();
        let good = raw(pair, true, &block(size, 1, 0xff, TEXT));
        assert_eq!(&open_with(key, &good).unwrap()[..], TEXT);
        let longest = raw(pair, true, &block(size, 1, 0xff, &vec![b'a'; size - 11]));
        assert_eq!(open_with(key, &longest).unwrap().len(), size - 11);

        for (what, block) in wrong_blocks(size, 1, 0xff) {
            assert_eq!(open_with(key, &raw(pair, true, &block)), None, "{what}");
        }
        let not_ff = raw(pair, true, &block(size, 1, 0xfe, TEXT));
        assert_eq!(open_with(key, &not_ff), None);
        let mut one_off = block(size, 1, 0xff, TEXT);
        one_off[40] = 0xfe;
        assert_eq!(open_with(key, &raw(pair, true, &one_off)), None);
        for (what, sealed) in wrong_numbers(&good, &pair.key.n_bytes()) {
            assert_eq!(open_with(key, &sealed), None, "{what}");
        }
        // The same residue, not below n: would open if it were reduced.
        let n = BoxedUint::from_be_slice(&pair.key.n_bytes(), pair.key.n_bits_precision()).unwrap();
        let number = BoxedUint::from_be_slice(&good, pair.key.n_bits_precision()).unwrap();
        let sum = number.wrapping_add(&n);
        if sum > n {
            assert_eq!(open_with(key, &sum.to_be_bytes()), None, "c + n");
        }
    }
}

/// OpenSSL takes a seal without its leading zero byte; the length must be exact.
#[test]
fn a_seal_keeps_its_leading_zero() {
    let pair = payload();
    let size = pair.key.size();
    for (private, kind, filler, pem) in
        [(true, 1, 0xff, &pair.public_pkcs1), (false, 2, 0xab, &pair.pkcs8)]
    {
        let keys = payload_keys(pem);
        let key = keys.iter().next().unwrap();
        let sealed = (0u32..)
            .map(|n| raw(pair, private, &block(size, kind, filler, n.to_string().as_bytes())))
            .find(|sealed| sealed[0] == 0)
            .unwrap();
        assert!(open_with(key, &sealed).is_some());
        assert_eq!(open_with(key, &sealed[1..]), None);
    }
}

#[test]
fn unpadding_wants_every_byte() {
    let padded = |head: &[u8], ones: usize, tail: &[u8]| [head, &vec![0xff; ones], tail].concat();
    assert_eq!(unpad_type_1(&padded(&[0, 1], 8, b"\0x")), Some(&b"x"[..]));
    assert_eq!(unpad_type_1(&padded(&[0, 1], 8, b"\0")), Some(&b""[..]));
    assert_eq!(unpad_type_1(&padded(&[0, 1], 9, b"\0\0x")), Some(&b"\0x"[..]));
    for (head, ones, tail) in [
        (&[0, 1][..], 7, &b"\0x"[..]),
        (&[0, 1], 8, b""),
        (&[0, 1], 8, b"x"),
        (&[0, 2], 8, b"\0x"),
        (&[1, 1], 8, b"\0x"),
        (&[0], 8, b"\0x"),
        (&[1], 8, b"\0x"),
        (&[], 8, b"\0x"),
    ] {
        assert_eq!(unpad_type_1(&padded(head, ones, tail)), None, "{head:?} {ones} {tail:?}");
    }
    assert_eq!(unpad_type_1(&[]), None);
}

#[test]
fn a_wrong_key_never_passes_the_policy() {
    // 1024 bits: implicit rejection answers with random text. 2048: with an error.
    for (wrong, right) in [(stranger(), payload()), (large(), medium())] {
        let keys = payload_keys(&wrong.pkcs8);
        let key = keys.iter().next().unwrap();
        for filler in 1..=64 {
            let sealed = raw(right, false, &block(right.key.size(), 2, filler, TEXT));
            assert_refused(key, &sealed, "wrong key");
        }
    }
}
