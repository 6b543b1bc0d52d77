//! Arbitrary bytes as a stream of frames, in two pieces: never a panic, each frame has one spelling, and
//! where the stream is cut changes nothing.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sticky_listen::channel::frame::{FRAME_LEN, Frame, FrameReader, Malformed};

fn read(pieces: &[&[u8]]) -> (Vec<Frame>, Result<(), Malformed>) {
    let mut reader = FrameReader::default();
    let mut frames = Vec::new();
    for mut piece in pieces.iter().copied() {
        loop {
            match reader.next(&mut piece) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(malformed) => return (frames, Err(malformed)),
            }
        }
    }
    (frames, Ok(()))
}

fuzz_target!(|input: (usize, &[u8])| {
    let (cut, bytes) = input;
    let whole = read(&[bytes]);
    let (a, b) = bytes.split_at(cut % (bytes.len() + 1));
    assert_eq!(whole, read(&[a, b]));
    for (frame, bytes) in whole.0.iter().zip(bytes.chunks(FRAME_LEN)) {
        assert_eq!(frame.encode(), *bytes);
    }
});
