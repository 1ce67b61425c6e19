//! Small files compressed once and kept, bounded in bytes.
//!
//! The key is what the opened file is, not its name: content that was replaced is never found
//! again and leaves by eviction.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;

use bytes::Bytes;
use flate2::write::GzEncoder;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};
use tokio::sync::Semaphore;

use super::body::{off_thread, read_exactly};
use super::encoding::Coding;
use super::open::Facts;

/// Smallest file worth it: the rest fits one packet anyway.
const SMALLEST: u64 = 1 << 10;

/// Largest file; larger ones are for compressed siblings.
const LARGEST: u64 = 256 << 10;

/// Compressions at a time: a cold start must not take the cores from the desktops.
const AT_A_TIME: usize = 2;

/// Held by an entry beside its content: key, hash table, handle.
const ENTRY: u64 = 160;

/// Typical size of an entry, for the first allocation of the table.
const TYPICAL: u64 = 8 << 10;

const ZSTD_LEVEL: i32 = 9;
const BROTLI_QUALITY: u32 = 5;
const BROTLI_WINDOW: u32 = 18; // 256 KiB, the largest file
const GZIP_LEVEL: u32 = 6;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    facts: Facts,
    coding: Coding,
}

#[derive(Clone, Debug)]
struct ByBytes;

impl Weighter<Key, Option<Bytes>> for ByBytes {
    fn weight(&self, _key: &Key, packed: &Option<Bytes>) -> u64 {
        ENTRY + packed.as_ref().map_or(0, |packed| packed.len() as u64)
    }
}

/// The cache; `None` is kept for a file that does not shrink.
#[derive(Debug)]
pub(super) struct Hot {
    packed: Cache<Key, Option<Bytes>, ByBytes>,
    capacity: u64,
    turns: Arc<Semaphore>,
}

impl Hot {
    /// Holds at most so many bytes.
    pub(super) fn new(capacity: u64) -> Self {
        let items = usize::try_from(capacity / TYPICAL).unwrap_or(usize::MAX).clamp(16, 1 << 16);
        // One shard: the bound of several is that of each, and entries are large.
        let options = OptionsBuilder::new()
            .shards(1)
            .estimated_items_capacity(items)
            .weight_capacity(capacity)
            .build();
        let packed = match options {
            Ok(options) => Cache::with_options(
                options,
                ByBytes,
                DefaultHashBuilder::default(),
                DefaultLifecycle::default(),
            ),
            Err(_) => Cache::with_weighter(items, capacity, ByBytes),
        };
        Self { packed, capacity, turns: Arc::new(Semaphore::new(AT_A_TIME)) }
    }

    /// Whether a file of this size belongs here.
    pub(super) fn takes(&self, size: u64) -> bool {
        (SMALLEST..=LARGEST.min(self.capacity)).contains(&size)
    }

    /// The file in this coding, or `None` when that is no smaller or cannot be made.
    ///
    /// Requests for the same form wait for one compression.
    pub(super) async fn packed(
        &self,
        file: &Arc<File>,
        facts: Facts,
        coding: Coding,
    ) -> Option<Bytes> {
        let make = async {
            let turn = Arc::clone(&self.turns).acquire_owned().await.map_err(io::Error::other)?;
            let file = Arc::clone(file);
            off_thread(move || {
                // Held until the work ends, also when the client has left.
                let _turn = turn;
                pack(&file, facts, coding)
            })
            .await?
        };
        // Failures are not kept: the next request tries again.
        self.packed.get_or_insert_async(&Key { facts, coding }, make).await.unwrap_or(None)
    }

    /// Bytes and entries held.
    #[cfg(test)]
    pub(super) fn load(&self) -> (u64, usize) {
        (self.packed.weight(), self.packed.len())
    }
}

/// Reads and compresses a file.
fn pack(file: &File, facts: Facts, coding: Coding) -> io::Result<Option<Bytes>> {
    let plain = read_exactly(file, 0..facts.size)?;
    if Facts::of(&file.metadata()?) != facts {
        // Written to in the meantime: what was read belongs to no version.
        return Err(io::ErrorKind::InvalidData.into());
    }
    let packed = compress(&plain, coding)?;
    // Boxed, because the spare room of a vector would not be counted.
    Ok((packed.len() < plain.len()).then(|| packed.into_boxed_slice().into()))
}

fn compress(plain: &[u8], coding: Coding) -> io::Result<Vec<u8>> {
    match coding {
        Coding::Zstd => zstd::bulk::compress(plain, ZSTD_LEVEL),
        Coding::Brotli => {
            let mut encoder =
                brotli::CompressorWriter::new(Vec::new(), 4096, BROTLI_QUALITY, BROTLI_WINDOW);
            encoder.write_all(plain)?;
            Ok(encoder.into_inner())
        }
        Coding::Gzip => {
            let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::new(GZIP_LEVEL));
            encoder.write_all(plain)?;
            encoder.finish()
        }
    }
}
