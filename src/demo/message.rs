//! Cuts the byte stream of a viewer into RFB messages; assumes nothing about how the bytes were
//! split into WebSocket frames.

use bytes::{Buf, BytesMut};

use super::frame::Area;
use super::pixels::PixelFormat;

const CUT_TEXT_LIMIT: usize = 256 * 1024;

/// What a viewer can say after the handshake.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message {
    Format(PixelFormat),
    /// The demo always sends Raw, so the list is not kept.
    Encodings,
    Update {
        incremental: bool,
        area: Area,
    },
    Key {
        down: bool,
        keysym: u32,
    },
    Pointer {
        buttons: u8,
        x: u16,
        y: u16,
    },
    CutText(String),
}

/// Why a viewer cannot be served any longer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    UnknownType(u8),
    CutTextTooLong,
    PixelFormat,
}

/// Takes the next complete message off the buffer; `None` if more bytes are needed.
pub(super) fn take(buffer: &mut BytesMut) -> Result<Option<Message>, Fault> {
    let Some(length) = length(buffer)? else {
        return Ok(None);
    };
    if buffer.len() < length {
        return Ok(None);
    }
    let mut wire = buffer.split_to(length);
    Ok(Some(match wire.get_u8() {
        0 => {
            wire.advance(3);
            Message::Format(PixelFormat::read(wire).ok_or(Fault::PixelFormat)?)
        }
        3 => {
            let incremental = wire.get_u8() != 0;
            let mut field = || usize::from(wire.get_u16());
            let area = Area { x: field(), y: field(), width: field(), height: field() };
            Message::Update { incremental, area }
        }
        4 => {
            let down = wire.get_u8() != 0;
            wire.advance(2);
            Message::Key { down, keysym: wire.get_u32() }
        }
        5 => Message::Pointer { buttons: wire.get_u8(), x: wire.get_u16(), y: wire.get_u16() },
        6 => {
            wire.advance(7);
            // Latin-1: every byte is the character of that number.
            Message::CutText(wire.iter().map(|byte| char::from(*byte)).collect())
        }
        _ => Message::Encodings,
    }))
}

/// The length of the message at the front, once enough of it is there to tell.
fn length(buffer: &[u8]) -> Result<Option<usize>, Fault> {
    let mut head = buffer;
    let Ok(kind) = head.try_get_u8() else {
        return Ok(None);
    };
    Ok(match kind {
        0 => Some(20),
        2 => {
            let count = head.get(1..3).map(|mut count| usize::from(count.get_u16()));
            count.map(|count| 4 + 4 * count)
        }
        3 => Some(10),
        4 => Some(8),
        5 => Some(6),
        6 => match head.get(3..7).map(|mut length| length.get_i32()) {
            // A negative length announces an extended clipboard message of that many bytes.
            Some(announced) => match usize::try_from(announced.unsigned_abs()) {
                Ok(announced) if announced <= CUT_TEXT_LIMIT => Some(8 + announced),
                Ok(_) | Err(_) => return Err(Fault::CutTextTooLong),
            },
            None => None,
        },
        kind => return Err(Fault::UnknownType(kind)),
    })
}

#[cfg(test)]
mod tests {
    use super::{Area, Fault, Message, take};
    use bytes::BytesMut;

    #[test]
    fn messages_are_found_however_they_are_split() {
        let stream = [
            &[2, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 1][..],
            &[3, 1, 0, 1, 0, 2, 0, 3, 0, 4],
            &[4, 1, 0, 0, 0, 0, 0, 97],
            &[5, 1, 0, 9, 1, 0],
            &[6, 0, 0, 0, 0, 0, 0, 2, 104, 233],
        ]
        .concat();
        let (mut buffer, mut found) = (BytesMut::new(), Vec::new());
        for byte in stream {
            buffer.extend_from_slice(&[byte]);
            found.extend(take(&mut buffer).ok().flatten());
        }
        let area = Area { x: 1, y: 2, width: 3, height: 4 };
        let expected = [
            Message::Encodings,
            Message::Update { incremental: true, area },
            Message::Key { down: true, keysym: 97 },
            Message::Pointer { buttons: 1, x: 9, y: 256 },
            Message::CutText("hé".to_owned()),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn what_cannot_be_served_is_a_fault() {
        let fault = |bytes: &[u8]| take(&mut BytesMut::from(bytes)).err();
        assert_eq!(fault(&[9]), Some(Fault::UnknownType(9)));
        assert_eq!(fault(&[6, 0, 0, 0, 0x7f, 0, 0, 0]), Some(Fault::CutTextTooLong));
        assert_eq!(fault(&[6, 0, 0, 0, 0x80, 0, 0, 0]), Some(Fault::CutTextTooLong));
    }
}
