//! The program by which the kernel chooses a slot for a connection: [`client::hash`](crate::client::hash) in the
//! instructions of a classic BPF filter. Pure: numbers in, instructions out.
//!
//! Such a machine has an accumulator A, an index register X and 16 words of memory; jumps lead forward only. The
//! packet is the client's first; its network header is found at a fixed offset whatever precedes it.

use crate::channel::counters;
use crate::client::half_sip::{self, FINAL_MARK, FINAL_ROUNDS, INITIAL, WORD_ROUNDS};
use crate::client::hash::{ClientHasher, INCREMENT, MULTIPLIER, threshold};
use crate::sys::reuseport::Instruction;

/// The most slots that a program can tell apart, by the length that every kernel grants (20 KiB with
/// `net.core.optmem_max` as it was before Linux 6.8).
pub const MAX_SLOTS: u32 = 256;

/// Each needs a counter.
const _: () = assert!(MAX_SLOTS as usize <= counters::SLOTS);

/// The instructions that are used here, by the names of the BPF assembler.
mod code {
    pub const LD_ABS_WORD: u16 = 0x20;
    pub const LD_ABS_BYTE: u16 = 0x30;
    pub const LD_MEM: u16 = 0x60;
    pub const LD_IMM: u16 = 0x00;
    pub const LDX_IMM: u16 = 0x01;
    pub const LDX_MEM: u16 = 0x61;
    pub const ST: u16 = 0x02;
    pub const ADD_K: u16 = 0x04;
    pub const ADD_X: u16 = 0x0c;
    pub const MUL_K: u16 = 0x24;
    pub const OR_X: u16 = 0x4c;
    pub const AND_K: u16 = 0x54;
    pub const LSH_K: u16 = 0x64;
    pub const RSH_K: u16 = 0x74;
    pub const XOR_K: u16 = 0xa4;
    pub const XOR_X: u16 = 0xac;
    pub const JMP: u16 = 0x05;
    pub const JEQ_K: u16 = 0x15;
    pub const JGE_K: u16 = 0x35;
    pub const RET_K: u16 = 0x06;
    pub const RET_A: u16 = 0x16;
    pub const TXA: u16 = 0x87;
}

/// Where the network header begins, whatever precedes it (`SKF_NET_OFF`), and what is in it.
const NETWORK: u32 = 0xfff0_0000;
const IPV4_SOURCE: u32 = NETWORK + 12;
const IPV6_SOURCE: u32 = NETWORK + 8;

/// The memory: the hash's state, what is rotated, what is absorbed, the last word of the address, and the word that ends
/// the message.
const STATE: [u32; 4] = [0, 1, 2, 3];
const SCRATCH: u32 = 4;
const ABSORBED: u32 = 5;
const ADDRESS: u32 = 6;
const LENGTH: u32 = 7;

/// The program for a number of slots, at most [`MAX_SLOTS`]. It returns the slot of the client that a packet comes from.
///
/// # Panics
/// On more slots than that.
pub fn program(hasher: &ClientHasher, slots: u32) -> Vec<Instruction> {
    assert!(slots <= MAX_SLOTS, "more slots than a program can tell apart");
    let mut program = Program::default();
    if slots < 2 {
        program.push(code::RET_K, 0);
        return program.0;
    }
    program.begin(hasher.key());
    program.load_address(hasher.masks());
    for word in [ADDRESS, LENGTH] {
        program.push(code::LD_MEM, word);
        program.absorb();
    }
    program.finish();
    program.jump_hash(slots);
    program.0
}

/// A place in the program that jumps lead to, known by the jumps that wait for it.
#[derive(Default)]
struct Label(Vec<usize>);

#[derive(Default)]
struct Program(Vec<Instruction>);

impl Program {
    fn push(&mut self, code: u16, k: u32) {
        self.0.push(Instruction { code, jump_true: 0, jump_false: 0, k });
    }

    fn jump(&mut self, to: &mut Label) {
        to.0.push(self.0.len());
        self.push(code::JMP, 0);
    }

    /// Jumps unless A is `k`. (A comparison alone reaches 255 instructions.)
    fn jump_unless(&mut self, k: u32, to: &mut Label) {
        self.0.push(Instruction { code: code::JEQ_K, jump_true: 1, jump_false: 0, k });
        self.jump(to);
    }

    /// This is where the label is.
    fn place(&mut self, label: Label) {
        for jump in label.0 {
            self.0[jump].k = u32::try_from(self.0.len() - jump - 1).unwrap_or(u32::MAX);
        }
    }

    fn begin(&mut self, [k0, k1]: [u32; 2]) {
        for (cell, word) in STATE.into_iter().zip(INITIAL) {
            let key = if cell % 2 == 0 { k0 } else { k1 };
            self.push(code::LD_IMM, word ^ key);
            self.push(code::ST, cell);
        }
    }

    /// Stores the last word of the address, and the word that ends the message. Of an IPv6 address, absorbs the words
    /// before.
    fn load_address(&mut self, masks: [u32; 4]) {
        let word = |n: u32| IPV6_SOURCE + 4 * n;
        let [mut ipv4, mut ipv6, mut one_word, mut end] = <[Label; 4]>::default();
        self.push(code::LD_ABS_BYTE, NETWORK);
        self.push(code::RSH_K, 4);
        self.jump_unless(6, &mut ipv4);
        // An IPv4 address in the form of IPv6 is that IPv4 address.
        for (n, mapped) in [(0, 0), (1, 0), (2, 0xffff)] {
            self.push(code::LD_ABS_WORD, word(n));
            self.jump_unless(mapped, &mut ipv6);
        }
        self.push(code::LD_ABS_WORD, word(3));
        self.jump(&mut one_word);
        self.place(ipv4);
        self.push(code::LD_ABS_WORD, IPV4_SOURCE);
        self.place(one_word);
        self.push(code::ST, ADDRESS);
        self.push(code::LD_IMM, half_sip::last_word(4, &[]));
        self.jump(&mut end);
        self.place(ipv6);
        for (n, mask) in (0..).zip(masks) {
            self.push(code::LD_ABS_WORD, word(n));
            self.push(code::AND_K, mask);
            if n < 3 {
                self.absorb();
            } else {
                self.push(code::ST, ADDRESS);
            }
        }
        self.push(code::LD_IMM, half_sip::last_word(16, &[]));
        self.place(end);
        self.push(code::ST, LENGTH);
    }

    /// Absorbs the word in A.
    fn absorb(&mut self) {
        self.push(code::ST, ABSORBED);
        self.xor_into(STATE[3], ABSORBED);
        self.rounds(WORD_ROUNDS);
        self.xor_into(STATE[0], ABSORBED);
    }

    /// Leaves the hash in A.
    fn finish(&mut self) {
        self.push(code::LD_MEM, STATE[2]);
        self.push(code::XOR_K, FINAL_MARK);
        self.push(code::ST, STATE[2]);
        self.rounds(FINAL_ROUNDS);
        self.push(code::LD_MEM, STATE[1]);
        self.push(code::LDX_MEM, STATE[3]);
        self.push(code::XOR_X, 0);
    }

    fn rounds(&mut self, count: usize) {
        let [v0, v1, v2, v3] = STATE;
        for _ in 0..count {
            for (sum, added, bits) in [(v0, v1, 5), (v2, v3, 8), (v0, v3, 7), (v2, v1, 13)] {
                self.push(code::LD_MEM, sum);
                self.push(code::LDX_MEM, added);
                self.push(code::ADD_X, 0);
                self.push(code::ST, sum);
                self.push(code::TXA, 0);
                self.rotate(added, bits);
                self.push(code::LDX_MEM, sum);
                self.push(code::XOR_X, 0);
                self.push(code::ST, added);
                // Where the published round rotates a sum it does so once it was used.
                if added == v1 {
                    self.push(code::LD_MEM, sum);
                    self.rotate(sum, 16);
                    self.push(code::ST, sum);
                }
            }
        }
    }

    /// Rotates A, which is what `cell` holds.
    fn rotate(&mut self, cell: u32, bits: u32) {
        self.push(code::LSH_K, bits);
        self.push(code::ST, SCRATCH);
        self.push(code::LD_MEM, cell);
        self.push(code::RSH_K, 32 - bits);
        self.push(code::LDX_MEM, SCRATCH);
        self.push(code::OR_X, 0);
    }

    fn xor_into(&mut self, cell: u32, with: u32) {
        self.push(code::LD_MEM, cell);
        self.push(code::LDX_MEM, with);
        self.push(code::XOR_X, 0);
        self.push(code::ST, cell);
    }

    /// Returns the slot of the hash in A.
    fn jump_hash(&mut self, slots: u32) {
        self.push(code::LDX_IMM, 0);
        for slot in 1..slots {
            self.push(code::MUL_K, MULTIPLIER);
            self.push(code::ADD_K, INCREMENT);
            let k = threshold(slot);
            self.0.push(Instruction { code: code::JGE_K, jump_true: 1, jump_false: 0, k });
            self.push(code::LDX_IMM, slot);
        }
        self.push(code::TXA, 0);
        self.push(code::RET_A, 0);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;
    use crate::client::address::Ipv6Prefix;
    use crate::client::hash::slot;

    /// The packet's network header, as far as it is looked at.
    fn packet(source: IpAddr) -> Vec<u8> {
        let mut bytes = vec![0; 40];
        match source {
            IpAddr::V4(v4) => {
                bytes[0] = 0x45;
                bytes[12..16].copy_from_slice(&v4.octets());
            }
            IpAddr::V6(v6) => {
                bytes[0] = 0x60;
                bytes[8..24].copy_from_slice(&v6.octets());
            }
        }
        bytes
    }

    /// A machine that runs such programs.
    fn run(program: &[Instruction], packet: &[u8]) -> u32 {
        let (mut a, mut x, mut memory, mut at) = (0_u32, 0_u32, [0_u32; 16], 0);
        loop {
            let Instruction { code, jump_true, jump_false, k } = program[at];
            at += 1;
            let index = || usize::try_from(k.wrapping_sub(NETWORK)).unwrap();
            let skip = |is: bool| usize::from(if is { jump_true } else { jump_false });
            match code {
                code::LD_ABS_WORD => {
                    a = u32::from_be_bytes(packet[index()..][..4].try_into().unwrap());
                }
                code::LD_ABS_BYTE => a = packet[index()].into(),
                code::LD_MEM => a = memory[k as usize],
                code::LD_IMM => a = k,
                code::LDX_IMM => x = k,
                code::LDX_MEM => x = memory[k as usize],
                code::ST => memory[k as usize] = a,
                code::ADD_K => a = a.wrapping_add(k),
                code::ADD_X => a = a.wrapping_add(x),
                code::MUL_K => a = a.wrapping_mul(k),
                code::OR_X => a |= x,
                code::AND_K => a &= k,
                code::LSH_K => a <<= k,
                code::RSH_K => a >>= k,
                code::XOR_K => a ^= k,
                code::XOR_X => a ^= x,
                code::TXA => a = x,
                code::JMP => at += k as usize,
                code::JEQ_K => at += skip(a == k),
                code::JGE_K => at += skip(a >= k),
                code::RET_K => return k,
                code::RET_A => return a,
                code => panic!("instruction {code:#x}"),
            }
        }
    }

    fn assert_same(hasher: &ClientHasher, addresses: impl IntoIterator<Item = IpAddr>, slots: u32) {
        let program = program(hasher, slots);
        for address in addresses {
            let expected = slot(hasher.hash(Some(address)), slots).unwrap_or(0);
            assert_eq!(run(&program, &packet(address)), expected, "{address} of {slots} slots");
        }
    }

    #[test]
    fn guarantee_1_sticky_a_million_addresses_have_the_same_slot_in_the_kernels_program() {
        let hasher = ClientHasher::new(*b"test key", Ipv6Prefix::FULL);
        let number = |n: u32| n.wrapping_mul(0x9e37_79b9);
        let ipv4 = (0..500_000).map(|n| IpAddr::V4(Ipv4Addr::from_bits(number(n))));
        assert_same(&hasher, ipv4, 7);
        let ipv6 = (0..500_000_u32).map(|n| {
            let words =
                [0, 1, 2, 3].map(|word| u128::from(number(n ^ (word << 28))) << (32 * word));
            IpAddr::V6(Ipv6Addr::from_bits(words.into_iter().sum()))
        });
        assert_same(&hasher, ipv6, 7);
    }

    #[test]
    fn guarantee_1_sticky_a_mapped_address_has_the_slot_of_its_ipv4_address_in_the_program() {
        let hasher = ClientHasher::new(*b"test key", Ipv6Prefix::new(64).unwrap());
        let program = program(&hasher, 200);
        for n in 0..1000_u32 {
            let v4 = Ipv4Addr::from_bits(n.wrapping_mul(0x9e37_79b9));
            let mapped = packet(v4.to_ipv6_mapped().into());
            assert_eq!(run(&program, &mapped), run(&program, &packet(v4.into())));
        }
    }

    #[test]
    fn the_longest_program_is_short_enough_for_every_kernel() {
        let hasher = ClientHasher::new(*b"test key", Ipv6Prefix::FULL);
        let length = program(&hasher, MAX_SLOTS).len();
        // 8 bytes for each, and what the kernel adds.
        assert!(length * 8 + 512 < 20 * 1024, "{length} instructions");
    }

    proptest! {
        #[test]
        fn any_address_has_the_same_slot_in_the_program(
            key: [u8; 8], bits in 1_u8..=128, v4: u32, v6: u128, slots in 1..=MAX_SLOTS,
        ) {
            let hasher = ClientHasher::new(key, Ipv6Prefix::new(bits).unwrap());
            let v4 = Ipv4Addr::from_bits(v4);
            let addresses = [v4.into(), v4.to_ipv6_mapped().into(), Ipv6Addr::from_bits(v6).into()];
            assert_same(&hasher, addresses, slots);
        }
    }
}
