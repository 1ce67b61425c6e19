//! Encodes `0xRRGGBB` pixels in the format a viewer asked for; assumes true colour, the only kind
//! current viewers ask for.

use bytes::{Buf, BufMut, BytesMut};

/// The wire size of a pixel format.
pub(super) const FORMAT_LENGTH: usize = 16;

/// One colour's place in a pixel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Channel {
    max: u16,
    shift: u8,
}

impl Channel {
    fn place(self, value: u32) -> u32 {
        let scaled = (value * u32::from(self.max) + 127) / 255;
        scaled << self.shift
    }

    fn fits(self, bits: u8) -> bool {
        // The top bit of the largest value must lie within the pixel.
        let used = 16 - self.max.leading_zeros();
        self.max > 0 && used + u32::from(self.shift) <= u32::from(bits)
    }
}

/// A true-colour pixel of 8, 16 or 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PixelFormat {
    bits: u8,
    depth: u8,
    big_endian: bool,
    red: Channel,
    green: Channel,
    blue: Channel,
}

impl PixelFormat {
    /// What the server offers before the viewer chooses.
    pub(super) const NATIVE: Self = Self {
        bits: 32,
        depth: 24,
        big_endian: false,
        red: Channel { max: 255, shift: 16 },
        green: Channel { max: 255, shift: 8 },
        blue: Channel { max: 255, shift: 0 },
    };

    /// Reads the wire form; `None` if it is short or cannot be served.
    pub(super) fn read(mut wire: impl Buf) -> Option<Self> {
        if wire.remaining() < FORMAT_LENGTH {
            return None;
        }
        let (bits, depth, big_endian) = (wire.get_u8(), wire.get_u8(), wire.get_u8() != 0);
        let true_colour = wire.get_u8() != 0;
        let (red, green, blue) = (wire.get_u16(), wire.get_u16(), wire.get_u16());
        let mut channel = |max| Channel { max, shift: wire.get_u8() };
        let (red, green, blue) = (channel(red), channel(green), channel(blue));
        let usable = true_colour
            && matches!(bits, 8 | 16 | 32)
            && [red, green, blue].iter().all(|c| c.fits(bits));
        usable.then_some(Self { bits, depth, big_endian, red, green, blue })
    }

    pub(super) fn write(self, wire: &mut BytesMut) {
        wire.put_slice(&[self.bits, self.depth, u8::from(self.big_endian), 1]);
        for channel in [self.red, self.green, self.blue] {
            wire.put_u16(channel.max);
        }
        wire.put_slice(&[self.red.shift, self.green.shift, self.blue.shift, 0, 0, 0]);
    }

    /// The bytes one pixel takes.
    pub(super) fn pixel_length(self) -> usize {
        usize::from(self.bits / 8)
    }

    /// Appends a row of pixels.
    pub(super) fn encode(self, row: &[u32], wire: &mut BytesMut) {
        for pixel in row {
            let value = self.red.place(pixel >> 16 & 0xff)
                | self.green.place(pixel >> 8 & 0xff)
                | self.blue.place(pixel & 0xff);
            let ([_, _, high, low], [first, second, _, _]) =
                (value.to_be_bytes(), value.to_le_bytes());
            match (self.bits, self.big_endian) {
                (8, _) => wire.put_u8(low),
                (16, true) => wire.put_slice(&[high, low]),
                (16, false) => wire.put_slice(&[first, second]),
                (_, true) => wire.put_u32(value),
                (_, false) => wire.put_u32_le(value),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]
    use super::PixelFormat;
    use bytes::BytesMut;

    fn encoded(format: [u8; 16], pixel: u32) -> Vec<u8> {
        let mut wire = BytesMut::new();
        PixelFormat::read(&format[..]).unwrap().encode(&[pixel], &mut wire);
        wire.to_vec()
    }

    #[test]
    fn pixels_follow_the_asked_format() {
        let bgrx = [32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0];
        assert_eq!(encoded(bgrx, 0x1d5f8a), [0x8a, 0x5f, 0x1d, 0]);
        let rgbx = [32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 0, 8, 16, 0, 0, 0];
        assert_eq!(encoded(rgbx, 0x1d5f8a), [0x1d, 0x5f, 0x8a, 0]);
        let big = [32, 24, 1, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0];
        assert_eq!(encoded(big, 0x1d5f8a), [0, 0x1d, 0x5f, 0x8a]);
        let rgb565 = [16, 16, 0, 1, 0, 31, 0, 63, 0, 31, 11, 5, 0, 0, 0, 0];
        assert_eq!(encoded(rgb565, 0xff0000), [0x00, 0xf8]);
        let rgb332 = [8, 8, 0, 1, 0, 7, 0, 7, 0, 3, 5, 2, 0, 0, 0, 0];
        assert_eq!(encoded(rgb332, 0xffffff), [0xff]);
    }

    #[test]
    fn formats_that_cannot_be_served_are_refused() {
        let palette = [8, 8, 0, 0, 0, 7, 0, 7, 0, 3, 5, 2, 0, 0, 0, 0];
        let spilling = [16, 16, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0];
        let odd = [24, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0];
        for format in [palette, spilling, odd] {
            assert_eq!(PixelFormat::read(&format[..]), None);
        }
        assert_eq!(PixelFormat::read(&[32][..]), None);
    }
}
