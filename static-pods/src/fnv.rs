//! FNV-1a in three widths (Fowler, Noll, Vo; draft-eastlake-fnv): for identities and checksums against accidents, not against
//! people. Pure.

macro_rules! fnv1a {
    ($(#[$doc:meta])* $name:ident, $word:ty, $offset:expr, $prime:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $name($word);

        impl Default for $name {
            fn default() -> Self {
                Self($offset)
            }
        }

        impl $name {
            /// The hash of `bytes`.
            #[must_use]
            pub fn of(bytes: &[u8]) -> $word {
                let mut hash = Self::default();
                hash.write(bytes);
                hash.value()
            }

            /// Takes in `bytes`.
            pub fn write(&mut self, bytes: &[u8]) {
                for byte in bytes {
                    self.0 = (self.0 ^ <$word>::from(*byte)).wrapping_mul($prime);
                }
            }

            /// The hash of all that was taken in.
            #[must_use]
            pub fn value(&self) -> $word {
                self.0
            }
        }
    };
}

fnv1a!(
    /// 32 bits.
    Fnv32,
    u32,
    0x811c_9dc5,
    0x0100_0193
);
fnv1a!(
    /// 64 bits.
    Fnv64,
    u64,
    0xcbf2_9ce4_8422_2325,
    0x0000_0100_0000_01b3
);
fnv1a!(
    /// 128 bits.
    Fnv128,
    u128,
    0x6c62_272e_07bb_0142_62b8_2175_6295_c58d,
    0x0000_0000_0100_0000_0000_0000_0000_013b
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_vectors() {
        for (text, narrow, middle, wide) in [
            (
                "",
                0x811c_9dc5,
                0xcbf2_9ce4_8422_2325,
                0x6c62_272e_07bb_0142_62b8_2175_6295_c58d,
            ),
            (
                "a",
                0xe40c_292c,
                0xaf63_dc4c_8601_ec8c,
                0xd228_cb69_6f1a_8caf_7891_2b70_4e4a_8964,
            ),
            (
                "foobar",
                0xbf9c_f968,
                0x8594_4171_f739_67e8,
                0x343e_1662_793c_64bf_6f0d_3597_ba44_6f18,
            ),
        ] {
            assert_eq!(Fnv32::of(text.as_bytes()), narrow, "{text:?}");
            assert_eq!(Fnv64::of(text.as_bytes()), middle, "{text:?}");
            assert_eq!(Fnv128::of(text.as_bytes()), wide, "{text:?}");
        }
    }
}
