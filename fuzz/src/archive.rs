//! A directory in one run of bytes: `u8` length and name, `u32` length and bytes of each file.

/// Reads an archive; what is cut off is as long as it is, and a name that is no plain file name is left out.
pub fn unpack(mut data: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    while let Some((&n, rest)) = data.split_first() {
        let (name, rest) = rest.split_at(rest.len().min(n.into()));
        let (length, rest) = rest.split_at(rest.len().min(4));
        let mut size = [0; 4];
        size[..length.len()].copy_from_slice(length);
        let (bytes, rest) = rest.split_at(rest.len().min(u32::from_le_bytes(size) as usize));
        data = rest;
        let plain = |c: &u8| c.is_ascii_alphanumeric() || b"._=-".contains(c);
        if !name.is_empty() && name[0] != b'.' && name.iter().all(plain) {
            files.push((String::from_utf8_lossy(name).into_owned(), bytes.to_vec()));
        }
    }
    files
}

/// The archive of `files`, whose names are below 256 bytes.
pub fn pack(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut data = Vec::new();
    for (name, bytes) in files {
        data.push(name.len() as u8);
        data.extend(name.bytes());
        data.extend((bytes.len() as u32).to_le_bytes());
        data.extend(bytes);
    }
    data
}
