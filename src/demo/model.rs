//! What a desktop's picture is made of: typed text, pointer, clipboard and time; assumes that input
//! is hostile and keeps only as much of it as can be shown.

use std::collections::VecDeque;
use std::time::Duration;

use super::Resident;

pub(super) const LINES: usize = 13;
pub(super) const LINE_LENGTH: usize = 35;
const CLIPBOARD_LENGTH: usize = 60;
const TRAIL_LENGTH: usize = 24;

const BACKSPACE: u32 = 0xff08;
const TAB: u32 = 0xff09;
const RETURN: u32 = 0xff0d;
const ESCAPE: u32 = 0xff1b;
const KEYPAD_ENTER: u32 = 0xff8d;
/// Keysyms above this are Unicode code points.
const UNICODE: u32 = 0x0100_0000;

/// The state shared by all viewers of a desktop.
#[derive(Clone, Debug)]
pub(super) struct Model {
    pub(super) resident: Resident,
    /// The number of the last picture begun.
    pub(super) number: u64,
    pub(super) lines: VecDeque<String>,
    pub(super) clipboard: String,
    pub(super) pointer: (u16, u16),
    pub(super) buttons: u8,
    pub(super) trail: VecDeque<(u16, u16)>,
    pub(super) viewers: usize,
    pub(super) uptime: Duration,
    /// Seconds since midnight, UTC.
    pub(super) clock: u64,
}

impl Model {
    pub(super) fn new(resident: Resident) -> Self {
        Self {
            resident,
            // Not zero, which stands for a tile never seen.
            number: 1,
            lines: VecDeque::from([String::new()]),
            clipboard: String::new(),
            pointer: (400, 500),
            buttons: 0,
            trail: VecDeque::new(),
            viewers: 0,
            uptime: Duration::ZERO,
            clock: 0,
        }
    }

    pub(super) fn press(&mut self, keysym: u32) {
        match keysym {
            BACKSPACE => self.erase(),
            RETURN | KEYPAD_ENTER => self.break_line(),
            ESCAPE => self.lines = VecDeque::from([String::new()]),
            TAB => self.insert(' '),
            _ => {
                if let Some(character) = character(keysym) {
                    self.insert(character);
                }
            }
        }
    }

    fn insert(&mut self, character: char) {
        if self.lines.back().is_none_or(|line| line.chars().count() >= LINE_LENGTH) {
            self.break_line();
        }
        if let Some(line) = self.lines.back_mut() {
            line.push(character);
        }
    }

    fn break_line(&mut self) {
        self.lines.push_back(String::new());
        while self.lines.len() > LINES {
            self.lines.pop_front();
        }
    }

    fn erase(&mut self) {
        let erased = self.lines.back_mut().and_then(String::pop);
        if erased.is_none() && self.lines.len() > 1 {
            self.lines.pop_back();
        }
    }

    pub(super) fn point(&mut self, x: u16, y: u16, buttons: u8) {
        if self.pointer != (x, y) {
            self.trail.push_back(self.pointer);
            while self.trail.len() > TRAIL_LENGTH {
                self.trail.pop_front();
            }
        }
        self.pointer = (x, y);
        self.buttons = buttons;
    }

    pub(super) fn paste(&mut self, text: &str) {
        self.clipboard = text
            .chars()
            .filter(|character| !character.is_control())
            .take(CLIPBOARD_LENGTH)
            .collect();
    }

    /// Begins the next picture and lets what fades fade.
    pub(super) fn advance(&mut self, uptime: Duration, clock: u64, viewers: usize) {
        self.number += 1;
        self.trail.pop_front();
        (self.uptime, self.clock, self.viewers) = (uptime, clock, viewers);
    }
}

/// The character a key writes, if it writes one.
fn character(keysym: u32) -> Option<char> {
    let code = match keysym {
        0x20..=0x7e | 0xa0..=0xff => keysym,
        _ => keysym.checked_sub(UNICODE)?,
    };
    char::from_u32(code).filter(|character| !character.is_control())
}

#[cfg(test)]
mod tests {
    use super::{BACKSPACE, LINE_LENGTH, LINES, Model, RETURN, TRAIL_LENGTH};
    use crate::demo::RESIDENTS;

    #[test]
    fn text_is_edited_and_bounded() {
        let [ada, _] = RESIDENTS;
        let mut model = Model::new(ada);
        for keysym in [
            u32::from('h'),
            u32::from('i'),
            RETURN,
            0x0100_20ac,
            BACKSPACE,
            BACKSPACE,
            BACKSPACE,
            0xffe1,
        ] {
            model.press(keysym);
        }
        assert_eq!(model.lines, ["h"]);
        for _ in 0..LINES * LINE_LENGTH * 2 {
            model.press(u32::from('x'));
        }
        assert_eq!(model.lines.len(), LINES);
        assert!(model.lines.iter().all(|line| line.len() <= LINE_LENGTH));
        for step in 0..1000 {
            model.point(step, step, 0);
        }
        assert!(model.trail.len() <= TRAIL_LENGTH);
        model.paste(&"y".repeat(100_000));
        assert!(model.clipboard.len() < 100);
    }
}
