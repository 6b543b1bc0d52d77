//! The pure functions that each connection passes through.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use divan::{Bencher, black_box};
use sticky_listen::channel::clock::Stamp;
use sticky_listen::channel::frame::{FRAME_LEN, Frame, FrameReader};
use sticky_listen::client::address::Ipv6Prefix;
use sticky_listen::client::hash::{self, ClientHasher};
use sticky_listen::client::http_head;

fn main() {
    divan::main();
}

fn hasher() -> ClientHasher {
    ClientHasher::new(*b"a bench!", Ipv6Prefix::FULL)
}

#[divan::bench]
fn hash_ipv4(bencher: Bencher<'_, '_>) {
    let (hasher, peer) = (hasher(), Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))));
    bencher.bench(|| hasher.hash(black_box(peer)));
}

#[divan::bench]
fn hash_ipv6(bencher: Bencher<'_, '_>) {
    let peer = Some(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 2, 3, 4, 5, 6)));
    let hasher = hasher();
    bencher.bench(|| hasher.hash(black_box(peer)));
}

#[divan::bench]
fn hash_without_address(bencher: Bencher<'_, '_>) {
    let hasher = hasher();
    bencher.bench(|| hasher.hash(black_box(None)));
}

#[divan::bench(args = [2, 8, 64, 1024])]
fn slot(bencher: Bencher<'_, '_>, slots: u32) {
    // Clients differ in how many steps they take.
    let hasher = hasher();
    let clients: Vec<_> =
        (0..1000_u32).map(|n| hasher.hash(Some(IpAddr::V4(Ipv4Addr::from(n))))).collect();
    let mut turn = clients.iter().cycle();
    bencher.bench_local(|| hash::slot(black_box(*turn.next().unwrap_or(&0)), black_box(slots)));
}

#[divan::bench]
fn frame_encode(bencher: Bencher<'_, '_>) {
    bencher.bench(|| {
        black_box(Frame::Deliver { first: 1 << 40, count: 64, sources: false, sent: Stamp(1) })
            .encode()
    });
}

#[divan::bench]
fn frame_decode(bencher: Bencher<'_, '_>) {
    let bytes = Frame::Adopted { through: 1 << 40, delay: 1 }.encode();
    bencher.bench(|| Frame::decode(black_box(&bytes)));
}

#[divan::bench]
fn frame_read_from_stream(bencher: Bencher<'_, '_>) {
    let stream: Vec<u8> =
        (0..64).flat_map(|through| Frame::Adopted { through, delay: 1 }.encode()).collect();
    bencher.counter(divan::counter::BytesCount::new(64 * FRAME_LEN)).bench(|| {
        let mut reader = FrameReader::default();
        let mut input = black_box(stream.as_slice());
        while let Ok(Some(frame)) = reader.next(&mut input) {
            black_box(frame);
        }
    });
}

/// As a browser sends it through a proxy.
const HEAD: &[u8] = b"GET /socket.io/?EIO=4&transport=polling&t=Oi2NTXy&sid=lv_VI97HAXpY6yYWAAAC HTTP/1.1\r\n\
    Host: example.org\r\nConnection: close\r\nX-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: https\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko)\r\nAccept: */*\r\n\
    Accept-Language: en-US,en;q=0.9\r\nAccept-Encoding: gzip, deflate, br\r\nReferer: https://example.org/\r\n\
    Cookie: session=s%3Aq7Wd0Yx3hT5m2kq8n4; theme=dark\r\n\r\n";

#[divan::bench]
fn head_scan(bencher: Bencher<'_, '_>) {
    bencher.bench(|| {
        let lines = |head: &http_head::Head<'_, '_>| head.lines("x-forwarded-for").count();
        black_box(http_head::read(black_box(HEAD), lines))
    });
}
