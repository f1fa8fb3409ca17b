#![allow(clippy::unwrap_used)] // a failed test is a panic

use proptest::prelude::*;

use super::*;

/// Codes in the layout of `I2_S` (element 32g + l of a block is bits 6 - 2g of byte l), then scale and padding.
fn i2_s(codes: &[u8], scale: f32) -> Vec<u8> {
    let mut bytes = Vec::new();
    for block in codes.chunks(128) {
        bytes.extend((0..32).map(|l| (0..4).map(|g| block[32 * g + l] << (6 - 2 * g)).sum::<u8>()));
    }
    bytes.extend(scale.to_le_bytes());
    bytes.extend([0xAA; 28]);
    bytes
}

/// `TQ2_0`: element 128h + 32g + l of a block is bits 2g of byte 32h + l; then d.
fn tq2_0(codes: &[u8], d: f32) -> Vec<u8> {
    let mut bytes = Vec::new();
    for block in codes.chunks(256) {
        for half in block.chunks(128) {
            bytes.extend((0..32).map(|l| (0..4).map(|g| half[32 * g + l] << (2 * g)).sum::<u8>()));
        }
        bytes.extend(f16::from_f32(d).to_le_bytes());
    }
    bytes
}

fn apply(weight: &Ternary, x: &[f32]) -> Vec<f32> {
    let x = Tensor::from_slice(x, (x.len() / weight.columns, weight.columns), &Device::Cpu).unwrap();
    weight
        .apply(&x)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap()
}

/// The sum of (code - 1) * q, and of code * q with each of the 16 lanes cut to 16 bits once every 4096 elements: the
/// definition, element by element.
fn sums(codes: &[u8], q: &[i64]) -> (i64, i64) {
    let exact = codes.iter().zip(q).map(|(&c, &q)| (i64::from(c) - 1) * q).sum();
    let mut wrapped = 0;
    for start in (0..codes.len()).step_by(4096) {
        for lane in 0..16 {
            let of_lane = |&e: &usize| e % 32 == 2 * lane || e % 32 == 2 * lane + 1;
            let elements = (start..codes.len().min(start + 4096)).filter(of_lane);
            let sum: i64 = elements.map(|e| i64::from(codes[e]) * q[e]).sum();
            wrapped += (sum + 0x8000).rem_euclid(0x1_0000) - 0x8000;
        }
    }
    (exact, wrapped)
}

/// Activations that are their own codes: the largest is 127, so that the scale is 1.
fn with_scale_one(mut q: Vec<i64>) -> Vec<i64> {
    q[0] = 127;
    q
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn without_overflow_the_product_is_the_plain_sum(
        rows in 1usize..40,
        blocks in 1usize..16, // 16 * 8 products of at most 2 * 127 a lane
        tokens in 1usize..4,
        scale in 0.001f32..10.0,
        seed in any::<u64>(),
    ) {
        let k = 128 * blocks;
        let mut state = seed;
        let mut next = |n: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % n
        };
        let codes: Vec<u8> = (0..rows * k).map(|_| next(3) as u8).collect();
        let q: Vec<Vec<i64>> = (0..tokens)
            .map(|_| with_scale_one((0..k).map(|_| next(255) as i64 - 127).collect()))
            .collect();
        let x: Vec<f32> = q.iter().flatten().map(|&q| q as f32).collect();
        for fused in [false, true] {
            let weight = Ternary::new(DType::I2_S, i2_s(&codes, scale), rows, k, fused).unwrap();
            let y = apply(&weight, &x);
            for (token, q) in q.iter().enumerate() {
                for (row, codes) in codes.chunks(k).enumerate() {
                    let expected = sums(codes, q).0 as f32 * scale;
                    prop_assert_eq!(y[token * rows + row], expected);
                }
            }
        }
    }

    #[test]
    fn a_tq_product_without_overflow_is_the_plain_sum_of_each_block(
        rows in 1usize..10,
        blocks in 1usize..4,
        seed in any::<u64>(),
    ) {
        let k = 256 * blocks;
        let mut state = seed;
        let mut next = |n: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % n
        };
        let codes: Vec<u8> = (0..rows * k).map(|_| next(3) as u8).collect();
        // -127 and not 127 comes first, so that the scale is 1 and not -1; powers of two keep f32 exact
        let mut q: Vec<i64> = (0..k).map(|_| next(254) as i64 - 126).collect();
        q.iter_mut().step_by(256).for_each(|q| *q = -127);
        let x: Vec<f32> = q.iter().map(|&q| q as f32).collect();
        let weight = Ternary::new(DType::TQ2_0, tq2_0(&codes, 0.25), rows, k, false).unwrap();
        let expected: Vec<f32> = codes.chunks(k).map(|codes| sums(codes, &q).0 as f32 * 0.25).collect();
        prop_assert_eq!(apply(&weight, &x), expected);
    }

    #[test]
    fn with_overflow_the_lanes_wrap_as_the_definition_says(
        blocks in 17usize..70,
        low in 100i64..127,
        seed in any::<u64>(),
    ) {
        let k = 128 * blocks;
        let mut state = seed;
        let mut next = |n: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % n
        };
        let codes: Vec<u8> = (0..k).map(|_| if next(20) == 0 { 1 } else { 2 }).collect();
        let q: Vec<i64> = with_scale_one((0..k).map(|_| low + next((128 - low) as u64) as i64).collect());
        let x: Vec<f32> = q.iter().map(|&q| q as f32).collect();
        let weight = Ternary::new(DType::I2_S, i2_s(&codes, 1.0), 1, k, false).unwrap();
        let expected = sums(&codes, &q).1 as f32 - q.iter().sum::<i64>() as f32;
        prop_assert_eq!(apply(&weight, &x), vec![expected]);
    }
}

#[test]
fn all_ones_times_127_overflow_a_lane_at_2176_elements_and_not_before() {
    // A lane has 8 products of 2 * 127 a block: 2032. 16 blocks are 32512, and 17 are 34544 or, in 16 bits, -30992.
    for (k, lane) in [(2048, 32_512), (2176, -30_992)] {
        let weight = Ternary::new(DType::I2_S, i2_s(&vec![2; k], 0.5), 1, k, false).unwrap();
        let expected = (16 * lane - 127 * k as i64) as f32 * 0.5;
        assert_eq!(apply(&weight, &vec![127.0; k]), [expected]);
    }
    // The lanes are added up every 4096 elements, which is 65024, or -512 in 16 bits, each time.
    let weight = Ternary::new(DType::I2_S, i2_s(&[2; 8192], 1.0), 1, 8192, false).unwrap();
    assert_eq!(
        apply(&weight, &[127.0; 8192]),
        [(2 * 16 * -512 - 127 * 8192) as f32]
    );
}

#[test]
fn activations_round_half_to_even_and_a_fused_product_rounds_once() {
    let rounded = |x, scale, fused| nearest(x, scale, fused);
    for fused in [false, true] {
        for (x, q) in [
            (0.5, 0),
            (1.5, 2),
            (2.5, 2),
            (-0.5, 0),
            (-1.5, -2),
            (-2.5, -2),
            (126.5, 126),
            (0.0, 0),
        ] {
            assert_eq!(rounded(x, 1.0, fused), q, "{x}");
        }
        assert_eq!(rounded(f32::NAN, 1.0, fused), 0);
    }
    // (1 + 2^-23) * (2.5 - 2^-22) = 2.5 + 2^-23 * 0.5 - 2^-45, which f32 rounds to 2.5
    let (x, scale) = (1.0 + f32::EPSILON, 2.5 - 2.0 * f32::EPSILON);
    assert_eq!(x * scale, 2.5);
    assert_eq!((rounded(x, scale, false), rounded(x, scale, true)), (2, 3));
}

#[test]
fn activations_are_scaled_to_127_in_the_largest() {
    let row = I8Row::new(&[0.0, -0.3, 0.1, 0.15], false);
    assert_eq!(
        (row.scale, row.sum),
        ((127.0 / f64::from(0.3f32)) as f32, -127 + 42 + 64)
    );
    assert_eq!(row.q, [0, -127, 42, 64]); // 63.5 rounds to 64
}

#[test]
fn rows_of_zeros_and_of_tiny_activations_give_zeros() {
    for x in [0.0, 1e-9] {
        let row = I8Row::new(&[x; 128], false);
        assert_eq!(
            (row.scale, row.sum),
            ((127.0 / 0.00001) as f32, 0),
            "the largest counts as 1e-5 at least"
        );
        let weight = Ternary::new(DType::I2_S, i2_s(&[2; 128], 3.0), 1, 128, false).unwrap();
        assert_eq!(apply(&weight, &[x; 128]), [0.0]);
    }
    let weight = Ternary::new(DType::TQ2_0, tq2_0(&[2; 256], 3.0), 1, 256, false).unwrap();
    assert_eq!(apply(&weight, &[0.0; 256]), [0.0]);
    // and weights of zeros
    let weight = Ternary::new(DType::I2_S, i2_s(&[1; 128], 3.0), 1, 128, false).unwrap();
    assert_eq!(apply(&weight, &[0.7; 128]), [0.0]);
}

#[test]
fn columns_that_are_not_whole_blocks_and_a_missing_scale_are_refused() {
    for (dtype, columns, bytes, reason) in [
        (DType::I2_S, 64, 64, "not whole blocks of I2_S"),
        (DType::I2_S, 200, 64, "not whole blocks of I2_S"),
        (DType::TQ1_0, 128, 54, "not whole blocks of TQ1_0"),
        (DType::I2_S, 128, 32, "is missing"),
        (DType::I2_S, 128, 35, "is missing"),
    ] {
        let refused = Ternary::new(dtype, vec![0; bytes], 1, columns, false);
        let error = refused.err().expect("an error").to_string();
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn looked_up_rows_are_the_dequantised_ones() {
    let codes: Vec<u8> = (0..384).map(|i| (i * 7 % 11 % 3) as u8).collect();
    let weight = Ternary::new(DType::I2_S, i2_s(&codes, 0.5), 3, 128, false).unwrap();
    let rows = weight.dequantized(&[2, 0]).unwrap().to_vec2::<f32>().unwrap();
    for (row, values) in [2, 0].into_iter().zip(rows) {
        let expected = codes[128 * row..][..128]
            .iter()
            .map(|&c| (f32::from(c) - 1.0) * 0.5);
        assert_eq!(values, expected.collect::<Vec<_>>());
    }
    assert!(weight.dequantized(&[3]).is_err());
}
