//! The C header and its ggml adapter have the dtypes of the format, under the same numbers and names.

use bitnet_trace_schema::DType;

const HEADER: &str = include_str!("../include/bitnet_trace.h");
const READ: &str = include_str!("../include/bitnet_trace_ggml_read.hpp");

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

#[test]
fn the_adapter_knows_every_packed_type_by_ggmls_name() {
    for dtype in DType::ALL.into_iter().filter(|d| d.is_packed()) {
        let name = match dtype.name().strip_suffix("_K") {
            Some(start) => format!("{}_K", start.to_lowercase()),
            None => dtype.name().to_lowercase(),
        };
        let row = format!("{{\"{name}\", BNT_{dtype}}}");
        assert!(READ.contains(&row), "{row}");
    }
}
