//! The C header has the dtypes of the format, under the same numbers and names.

use bitnet_trace_schema::DType;

const HEADER: &str = include_str!("../include/bitnet_trace.h");

#[test]
fn the_header_numbers_dtypes_as_the_format_lists_them() {
    let (_, rest) = HEADER.split_once("BNT_F32 = 0").expect("the enum of dtypes");
    let (rest, _) = rest.split_once('}').expect("its end");
    let numbered: Vec<String> = format!("BNT_F32 = 0{rest}")
        .split(',')
        .map(|entry| entry.trim().to_owned())
        .collect();
    let expected: Vec<String> = (DType::ALL.iter().enumerate())
        .map(|(number, dtype)| format!("BNT_{dtype} = {number}"))
        .collect();
    assert_eq!(numbered, expected);
}
