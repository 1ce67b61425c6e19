//! Draws a desktop's state; assumes a canvas of the size the layout below was made for.
//!
//! The square from (10, 10) to (49, 49) always has exactly the user's background colour: nothing is
//! drawn over it, so that a test can tell whose desktop it sees from one pixel.

use std::time::Duration;

use embedded_graphics::mono_font::iso_8859_1::{FONT_9X15, FONT_10X20};
use embedded_graphics::prelude::{Point, Primitive};
use embedded_graphics::primitives::{Circle, PrimitiveStyle, Rectangle};

use super::Resident;
use super::canvas::{Canvas, area, rgb};
use super::model::Model;

const WHITE: u32 = 0x00ff_ffff;
const PAPER: u32 = 0x00f6_f4ee;
const INK: u32 = 0x0020_2428;
const FAINT: u32 = 0x0088_8c90;
const NIGHT: u32 = 0x0012_1820;
const PRESSED: u32 = 0x00ff_2d55;

const BALL: i32 = 44;
/// Where the ball moves.
const ARENA: (i32, i32, i32, i32) = (420, 140, 360, 280);
/// Where typed text begins.
const TEXT: (i32, i32) = (34, 150);
const LINE_HEIGHT: i32 = 20;
const GLYPH_WIDTH: i32 = 10;

/// What never changes, drawn once.
pub(super) fn backdrop(resident: Resident) -> Canvas {
    let mut canvas = Canvas::new(resident.colour);
    canvas.fill(area(8, 8, 44, 44), WHITE);
    canvas.fill(swatch(), resident.colour);
    let title = format!("{}'s desktop", resident.user);
    canvas.write_large(&title, (70, 2), 3, WHITE);
    canvas.write("drawn by a stand-in, seen through the gateway", (70, 66), &FONT_9X15, WHITE);
    window(&mut canvas, area(20, 110, 384, 320), "Type here (Escape clears)", PAPER);
    window(&mut canvas, area(416, 110, 368, 320), "Proof of life", NIGHT);
    canvas.fill(area(0, 560, 800, 40), NIGHT);
    canvas
}

fn swatch() -> Rectangle {
    area(10, 10, 40, 40)
}

fn window(canvas: &mut Canvas, frame: Rectangle, title: &str, ground: u32) {
    canvas.fill(frame, INK);
    canvas.write(title, (frame.top_left.x + 10, frame.top_left.y + 7), &FONT_9X15, WHITE);
    let inner = area(
        frame.top_left.x + 2,
        frame.top_left.y + 28,
        frame.size.width - 4,
        frame.size.height - 30,
    );
    canvas.fill(inner, ground);
}

/// The whole picture: the backdrop and what moves.
pub(super) fn picture(backdrop: &Canvas, model: &Model) -> Vec<u32> {
    let mut canvas = backdrop.clone();
    typed(&mut canvas, model);
    ball(&mut canvas, model);
    status(&mut canvas, model);
    pointer(&mut canvas, model);
    // Last, because the pointer may have been over it.
    canvas.fill(swatch(), model.resident.colour);
    canvas.into_pixels()
}

fn typed(canvas: &mut Canvas, model: &Model) {
    let (left, mut y) = TEXT;
    let mut caret = TEXT;
    for line in &model.lines {
        canvas.write(line, (left, y), &FONT_10X20, INK);
        let columns = i32::try_from(line.chars().count()).unwrap_or(0);
        caret = (left + columns * GLYPH_WIDTH, y);
        y += LINE_HEIGHT;
    }
    canvas.fill(area(caret.0, caret.1 + 1, 3, 18), PRESSED);
    if !model.clipboard.is_empty() {
        canvas.write(&format!("clipboard: {}", model.clipboard), (20, 446), &FONT_9X15, WHITE);
    }
}

fn ball(canvas: &mut Canvas, model: &Model) {
    let (left, top, width, height) = ARENA;
    let corner = Point::new(
        left + bounce(model.uptime, 170, width - BALL),
        top + bounce(model.uptime, 110, height - BALL),
    );
    let style = PrimitiveStyle::with_fill(rgb(model.resident.accent));
    canvas.draw(&Circle::new(corner, BALL.unsigned_abs()).into_styled(style));
}

/// How far something is that runs to and fro over `span` at `speed` pixels a second.
fn bounce(elapsed: Duration, speed: u128, span: i32) -> i32 {
    let period = 2 * u128::from(span.unsigned_abs());
    let travelled = (elapsed.as_millis() * speed / 1000).checked_rem(period).unwrap_or(0);
    i32::try_from(travelled.min(period - travelled)).unwrap_or(0)
}

fn status(canvas: &mut Canvas, model: &Model) {
    let (hours, minutes, seconds) = (model.clock / 3600, model.clock / 60 % 60, model.clock % 60);
    canvas.write(
        &format!("{hours:02}:{minutes:02}:{seconds:02} UTC"),
        (20, 570),
        &FONT_10X20,
        WHITE,
    );
    let viewers = if model.viewers == 1 { "viewer" } else { "viewers" };
    let status = format!("up {} s   {} {viewers}", model.uptime.as_secs(), model.viewers);
    canvas.write(&status, (200, 570), &FONT_10X20, WHITE);
    let (x, y) = model.pointer;
    canvas.write(
        &format!("pointer {x},{y} buttons {:08b}", model.buttons),
        (500, 572),
        &FONT_9X15,
        FAINT,
    );
}

fn pointer(canvas: &mut Canvas, model: &Model) {
    let colour = if model.buttons == 0 { WHITE } else { PRESSED };
    for &(x, y) in &model.trail {
        canvas.fill(area(i32::from(x) - 2, i32::from(y) - 2, 5, 5), model.resident.accent);
    }
    let (x, y) = (i32::from(model.pointer.0), i32::from(model.pointer.1));
    canvas.fill(area(x - 12, y - 1, 25, 3), colour);
    canvas.fill(area(x - 1, y - 12, 3, 25), colour);
}

#[cfg(test)]
mod tests {
    use super::{backdrop, bounce, picture};
    use crate::demo::RESIDENTS;
    use crate::demo::frame::WIDTH;
    use crate::demo::model::Model;
    use std::time::Duration;

    #[test]
    fn the_swatch_is_the_users_colour_even_under_the_pointer() {
        for resident in RESIDENTS {
            let mut model = Model::new(resident);
            model.point(30, 30, 1);
            let pixels = picture(&backdrop(resident), &model);
            for (x, y) in [(10, 10), (30, 30), (49, 49)] {
                assert_eq!(pixels.get(y * WIDTH + x), Some(&resident.colour));
            }
        }
    }

    #[test]
    fn the_ball_turns_at_the_wall() {
        let at = |seconds| bounce(Duration::from_secs(seconds), 100, 300);
        assert_eq!([0, 1, 3, 4, 6, 7].map(at), [0, 100, 300, 200, 0, 100]);
    }
}
