//! One finished picture and which parts of it changed when; assumes every picture of a desktop has
//! the same size.

pub(super) const WIDTH: usize = 800;
pub(super) const HEIGHT: usize = 600;
/// Divides both sides, so that there are no partial tiles.
pub(super) const TILE: usize = 20;
const COLUMNS: usize = WIDTH / TILE;
pub(super) const TILES: usize = COLUMNS * (HEIGHT / TILE);

/// An area of the picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Area {
    pub(super) x: usize,
    pub(super) y: usize,
    pub(super) width: usize,
    pub(super) height: usize,
}

impl Area {
    pub(super) const ALL: Self = Self { x: 0, y: 0, width: WIDTH, height: HEIGHT };

    /// The part both have in common, if any.
    fn overlap(self, other: Self) -> Option<Self> {
        let (x, y) = (self.x.max(other.x), self.y.max(other.y));
        let right = (self.x + self.width).min(other.x + other.width);
        let bottom = (self.y + self.height).min(other.y + other.height);
        let (width, height) = (right.checked_sub(x)?, bottom.checked_sub(y)?);
        (width > 0 && height > 0).then_some(Self { x, y, width, height })
    }
}

/// A picture, numbered; each tile carries the number of the picture that last changed it.
pub(super) struct Frame {
    pub(super) number: u64,
    pixels: Vec<u32>,
    stamps: Vec<u64>,
}

impl Frame {
    /// A first picture, all of it new.
    pub(super) fn first(number: u64, pixels: Vec<u32>) -> Self {
        Self { number, pixels, stamps: vec![number; TILES] }
    }

    /// The picture that follows this one.
    pub(super) fn next(&self, number: u64, pixels: Vec<u32>) -> Self {
        let mut stamps = self.stamps.clone();
        let band = WIDTH * TILE;
        let bands = self.pixels.chunks_exact(band).zip(pixels.chunks_exact(band));
        for ((before, after), stamps) in bands.zip(stamps.chunks_exact_mut(COLUMNS)) {
            for (before, after) in before.chunks_exact(WIDTH).zip(after.chunks_exact(WIDTH)) {
                if before == after {
                    continue;
                }
                let tiles = before.chunks_exact(TILE).zip(after.chunks_exact(TILE));
                for ((before, after), stamp) in tiles.zip(stamps.iter_mut()) {
                    if before != after {
                        *stamp = number;
                    }
                }
            }
        }
        Self { number, pixels, stamps }
    }

    /// The rows of pixels of an area.
    pub(super) fn rows(&self, area: Area) -> impl Iterator<Item = &[u32]> {
        self.pixels
            .chunks_exact(WIDTH)
            .skip(area.y)
            .take(area.height)
            .filter_map(move |row| row.get(area.x..area.x + area.width))
    }

    /// The changed areas within `region` for a viewer that has seen `seen`, which is brought up to date.
    pub(super) fn changes(&self, region: Area, seen: &mut [u64]) -> Vec<Area> {
        let mut changed: Vec<Area> = Vec::new();
        for (index, (stamp, seen)) in self.stamps.iter().zip(seen.iter_mut()).enumerate() {
            let (column, row) = (index % COLUMNS, index / COLUMNS);
            let tile = Area { x: column * TILE, y: row * TILE, width: TILE, height: TILE };
            if *stamp <= *seen {
                continue;
            }
            let Some(visible) = tile.overlap(region) else {
                continue;
            };
            if visible == tile {
                *seen = self.number;
            }
            match changed.last_mut() {
                // Neighbours in a row go out as one rectangle.
                Some(last) if last.y == visible.y && last.x + last.width == visible.x => {
                    last.width += visible.width;
                }
                Some(_) | None => changed.push(visible),
            }
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, reason = "a test may fail loudly")]
    use super::{Area, Frame, HEIGHT, TILE, TILES, WIDTH};

    #[test]
    fn only_the_changed_tile_is_sent() {
        let first = Frame::first(1, vec![0; WIDTH * HEIGHT]);
        let mut seen = vec![0; TILES];
        let rows = first.changes(Area::ALL, &mut seen);
        assert_eq!(rows.len(), HEIGHT / TILE);
        assert!(first.changes(Area::ALL, &mut seen).is_empty());
        let mut pixels = vec![0; WIDTH * HEIGHT];
        pixels[WIDTH * 25 + 45] = 7;
        let second = first.next(2, pixels);
        let tile = Area { x: 40, y: 20, width: TILE, height: TILE };
        assert_eq!(second.changes(Area::ALL, &mut seen), [tile]);
    }

    #[test]
    fn a_tile_seen_in_part_stays_due() {
        let frame = Frame::first(1, vec![0; WIDTH * HEIGHT]);
        let mut seen = vec![0; TILES];
        let part = Area { x: 5, y: 5, width: 10, height: 10 };
        assert_eq!(frame.changes(part, &mut seen), [part]);
        assert_eq!(frame.changes(part, &mut seen), [part]);
    }
}
