//! A picture in memory that embedded-graphics can draw on; assumes nothing about where drawings
//! lie, as what falls outside is dropped.

use std::convert::Infallible;

use embedded_graphics::mono_font::iso_8859_1::FONT_10X20;
use embedded_graphics::mono_font::{MonoFont, MonoTextStyle};
use embedded_graphics::pixelcolor::Rgb888;
use embedded_graphics::pixelcolor::raw::RawU24;
use embedded_graphics::prelude::{
    Dimensions, DrawTarget, Drawable, IntoStorage, OriginDimensions, Pixel, Point, Size,
};
use embedded_graphics::primitives::Rectangle;
use embedded_graphics::text::{Baseline, Text};

use super::frame::{HEIGHT, WIDTH};

/// `WIDTH` times `HEIGHT` pixels of `0xRRGGBB`.
#[derive(Clone)]
pub(super) struct Canvas {
    pixels: Vec<u32>,
}

pub(super) fn rgb(colour: u32) -> Rgb888 {
    RawU24::new(colour).into()
}

pub(super) fn area(x: i32, y: i32, width: u32, height: u32) -> Rectangle {
    Rectangle::new(Point::new(x, y), Size::new(width, height))
}

impl Canvas {
    pub(super) fn new(colour: u32) -> Self {
        Self { pixels: vec![colour; WIDTH * HEIGHT] }
    }

    pub(super) fn into_pixels(self) -> Vec<u32> {
        self.pixels
    }

    pub(super) fn fill(&mut self, area: Rectangle, colour: u32) {
        let Ok(()) = self.fill_solid(&area, rgb(colour));
    }

    pub(super) fn draw(&mut self, drawing: &impl Drawable<Color = Rgb888>) {
        let Ok(_) = drawing.draw(self);
    }

    /// Writes with the upper left corner of the text at `at`.
    pub(super) fn write(&mut self, text: &str, at: (i32, i32), font: &MonoFont<'_>, colour: u32) {
        let style = MonoTextStyle::new(font, rgb(colour));
        self.draw(&Text::with_baseline(text, at.into(), style, Baseline::Top));
    }

    /// Writes with every pixel of the font `factor` pixels wide and high.
    pub(super) fn write_large(&mut self, text: &str, at: (i32, i32), factor: u8, colour: u32) {
        let mut magnified =
            Magnified { canvas: self, corner: at.into(), factor: i32::from(factor) };
        let style = MonoTextStyle::new(&FONT_10X20, rgb(colour));
        let Ok(_) =
            Text::with_baseline(text, Point::zero(), style, Baseline::Top).draw(&mut magnified);
    }
}

impl OriginDimensions for Canvas {
    fn size(&self) -> Size {
        let side = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        Size::new(side(WIDTH), side(HEIGHT))
    }
}

impl DrawTarget for Canvas {
    type Color = Rgb888;
    type Error = Infallible;

    fn draw_iter<I: IntoIterator<Item = Pixel<Rgb888>>>(
        &mut self,
        pixels: I,
    ) -> Result<(), Infallible> {
        for Pixel(point, colour) in pixels {
            let (Ok(x), Ok(y)) = (usize::try_from(point.x), usize::try_from(point.y)) else {
                continue;
            };
            if x >= WIDTH {
                continue;
            }
            if let Some(pixel) = self.pixels.get_mut(y.saturating_mul(WIDTH).saturating_add(x)) {
                *pixel = colour.into_storage();
            }
        }
        Ok(())
    }

    // Filled row by row: pixel by pixel would be felt in unoptimised builds.
    fn fill_solid(&mut self, area: &Rectangle, colour: Rgb888) -> Result<(), Infallible> {
        let area = area.intersection(&self.bounding_box());
        let place = |length: i32| usize::try_from(length).unwrap_or(0);
        let extent = |length: u32| usize::try_from(length).unwrap_or(0);
        let (left, width) = (place(area.top_left.x), extent(area.size.width));
        let rows = self
            .pixels
            .chunks_exact_mut(WIDTH)
            .skip(place(area.top_left.y))
            .take(extent(area.size.height));
        for row in rows {
            if let Some(span) = row.get_mut(left..left + width) {
                span.fill(colour.into_storage());
            }
        }
        Ok(())
    }
}

/// Draws every pixel as a square on the canvas.
struct Magnified<'a> {
    canvas: &'a mut Canvas,
    corner: Point,
    factor: i32,
}

impl OriginDimensions for Magnified<'_> {
    fn size(&self) -> Size {
        self.canvas.size()
    }
}

impl DrawTarget for Magnified<'_> {
    type Color = Rgb888;
    type Error = Infallible;

    fn draw_iter<I: IntoIterator<Item = Pixel<Rgb888>>>(
        &mut self,
        pixels: I,
    ) -> Result<(), Infallible> {
        for Pixel(point, colour) in pixels {
            let square = Size::new_equal(self.factor.unsigned_abs());
            self.canvas
                .fill_solid(&Rectangle::new(self.corner + point * self.factor, square), colour)?;
        }
        Ok(())
    }
}
