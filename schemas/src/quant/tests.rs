use super::*;

/// Bytes that look random and are the same each time.
fn noise(n: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..n).map(|_| next()).collect()
}

/// FNV-1a of the elements' bits; a NaN is a NaN.
fn digest(values: &[f32]) -> u64 {
    let bits = |x: &f32| if x.is_nan() { f32::NAN } else { *x }.to_bits();
    let bytes = values.iter().flat_map(|x| bits(x).to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

/// Digests of what ggml's `to_float` makes of 64 blocks of noise (llama.cpp b11434, `dequantize_row_q8_K` for Q8_K; bitnet.cpp's
/// `dequantize_row_i2_s` for I2_S). For Q8_1, which ggml never unpacks, our own.
const DIGESTS: [(DType, u64); 15] = [
    (DType::Q4_0, 0x2bf9_f0b9_bfae_95bb),
    (DType::Q4_1, 0x45d4_dc1f_7c37_f21e),
    (DType::Q5_0, 0xc992_a73c_8c4d_d8d8),
    (DType::Q5_1, 0x8b24_e23c_370b_4065),
    (DType::Q8_0, 0x9d55_7243_75c7_64fa),
    (DType::Q8_1, 0x2fd4_92d2_208f_c681),
    (DType::Q2_K, 0xab35_8179_50f0_0ea0),
    (DType::Q3_K, 0x4e55_c8ac_80e5_b862),
    (DType::Q4_K, 0x422a_8ef5_6dfb_6e43),
    (DType::Q5_K, 0x7748_c986_93ee_4836),
    (DType::Q6_K, 0x6bf3_78ba_801e_f846),
    (DType::Q8_K, 0xc928_ee11_2e49_9c3f),
    (DType::TQ1_0, 0x3dd3_99dd_50c3_782b),
    (DType::TQ2_0, 0x56b5_3aa3_45d9_3990),
    (DType::I2_S, 0xef0f_7eda_cb6b_c13e),
];

#[test]
fn every_layout_gives_the_elements_that_ggml_gives() {
    let packed = DType::ALL.into_iter().filter(|d| d.is_packed());
    assert!(packed.eq(DIGESTS.map(|(dtype, _)| dtype)));
    for (dtype, expected) in DIGESTS {
        let blocks = noise(64 * dtype.size() + dtype.tail(), 1);
        let values = dequantized(dtype, &blocks).expect("whole blocks");
        assert_eq!(values.len(), 64 * dtype.block());
        assert_eq!(digest(&values), expected, "{dtype}");
    }
}

#[test]
fn bytes_that_are_not_whole_blocks_are_refused() {
    let mut out = [7.0f32; 64];
    assert_eq!(
        dequantize(DType::F16, &[0; 128], &mut out),
        Err(QuantError::NotPacked(DType::F16))
    );
    for (dtype, bytes, elements) in [
        (DType::Q8_0, 67, 64),
        (DType::Q8_0, 68, 63),
        (DType::Q4_K, 144, 64),
    ] {
        let refused = dequantize(dtype, &vec![0; bytes], &mut out[..elements]);
        assert_eq!(
            refused,
            Err(QuantError::Length {
                dtype,
                bytes,
                elements
            })
        );
    }
    assert_eq!(out, [7.0; 64]);
    assert_eq!(dequantized(DType::I2_S, &[0; 35]), None);
    assert_eq!(dequantized(DType::F32, &[0; 4]), None);
    for dtype in DType::ALL.into_iter().filter(|d| d.is_packed()) {
        assert_eq!(dequantized(dtype, &[]), Some(vec![]), "{dtype} without elements");
    }
}

#[test]
fn a_ternary_code_less_one_times_the_scale_is_the_element() {
    for dtype in [DType::TQ1_0, DType::TQ2_0, DType::I2_S] {
        let (blocks, scale) = (noise(3 * dtype.size(), 2), 0.5f32.to_le_bytes());
        let tensor = [&blocks[..], &scale[..dtype.tail()]].concat();
        let values = dequantized(dtype, &tensor).expect("whole blocks");
        let mut found = vec![9; values.len()];
        codes(dtype, &blocks, &mut found).expect("whole blocks");
        for (i, (&x, &code)) in values.iter().zip(&found).enumerate() {
            let block = &blocks[i / dtype.block() * dtype.size()..][..dtype.size()];
            let d = match dtype {
                DType::I2_S => 0.5,
                _ => half(block, dtype.size() - 2),
            };
            let expected = if code == 3 && dtype == DType::I2_S {
                0.0
            } else {
                (f32::from(code) - 1.0) * d
            };
            assert!(
                x == expected || x.is_nan(),
                "{dtype} element {i}: {x}, code {code}"
            );
        }
    }
}

#[test]
fn codes_of_what_has_none_are_refused() {
    let mut out = [9u8; 256];
    let refused = codes(DType::Q8_0, &[0; 272], &mut out);
    assert_eq!(refused, Err(QuantError::NotTernary(DType::Q8_0)));
    for (bytes, elements) in [(53, 256), (54, 255), (108, 256)] {
        let dtype = DType::TQ1_0;
        let refused = codes(dtype, &vec![0; bytes], &mut out[..elements]);
        let expected = QuantError::Length {
            dtype,
            bytes,
            elements,
        };
        assert_eq!(refused, Err(expected));
    }
    assert_eq!(out, [9; 256]);
}
