//! Which shared libraries a program needs, for whichever architecture it is.

use crate::shell;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A library: where it is here, and its path in the image, without the leading slash.
#[derive(Debug)]
pub(crate) struct Library {
    pub(crate) name: String,
    pub(crate) file: PathBuf,
}

/// The program's interpreter and libraries, and what those need, sorted by name.
pub(crate) fn libraries(program: &Path, gnu: &str) -> Result<Vec<Library>> {
    let mut found = BTreeMap::new();
    let mut open = vec![program.to_path_buf()];
    while let Some(file) = open.pop() {
        for name in needs(&file)? {
            let library = locate(&name, gnu)
                .with_context(|| format!("{} links {name}, which this machine lacks", file.display()))?;
            // An interpreter is named with its path, a library without; a loader is often both.
            let key = name.rsplit('/').next().unwrap_or(&name).to_owned();
            let with_path = name.starts_with('/');
            if with_path || !found.contains_key(&key) {
                let place = if with_path {
                    name.trim_start_matches('/').to_owned()
                } else {
                    format!("lib/{gnu}/{name}")
                };
                if found.insert(key, (place, library.clone())).is_none() {
                    open.push(library);
                }
            }
        }
    }
    Ok(found
        .into_values()
        .map(|(name, file)| Library { name, file })
        .collect())
}

fn needs(file: &Path) -> Result<Vec<String>> {
    let mut readelf = shell::command("readelf");
    readelf.args(["-W", "-l", "-d"]).arg(file).env("LC_ALL", "C");
    let text = shell::quiet(&mut readelf)
        .with_context(|| format!("readelf (Debian: binutils) cannot read {}", file.display()))?;
    Ok(parse(&text))
}

/// `[Requesting program interpreter: /lib64/ld.so]` and `(NEEDED)  Shared library: [libc.so.6]`
fn parse(text: &str) -> Vec<String> {
    let between =
        |line: &str, before: &str| Some(line.split_once(before)?.1.split(']').next()?.trim().to_owned());
    text.lines()
        .filter_map(|line| {
            between(line, "[Requesting program interpreter:").or_else(|| {
                line.contains("(NEEDED)")
                    .then(|| between(line, "Shared library: ["))
                    .flatten()
            })
        })
        .collect()
}

/// Native libraries first in the distribution's own order; those of a cross compiler are below its name.
fn locate(name: &str, gnu: &str) -> Option<PathBuf> {
    let base = name.rsplit('/').next()?;
    let cross = PathBuf::from(format!("/usr/{gnu}/lib"));
    let native = [format!("/lib/{gnu}"), format!("/usr/lib/{gnu}")].map(PathBuf::from);
    let own = format!("{}-linux-gnu", std::env::consts::ARCH) == gnu;
    let plain = own.then(|| ["/lib64", "/usr/lib64", "/lib", "/usr/lib"].map(PathBuf::from));
    native
        .into_iter()
        .chain([cross])
        .chain(plain.into_iter().flatten())
        .map(|dir| dir.join(base))
        .find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn interpreter_and_libraries_are_read_from_readelf() {
        let text = "  INTERP         0x000350 0x0000000000000350 0x1c 0x1c R   0x1\n\
                    \x20     [Requesting program interpreter: /lib64/ld-linux-x86-64.so.2]\n\
                    Dynamic section at offset 0x1 contains 30 entries:\n\
                    \x200x0000000000000001 (NEEDED)             Shared library: [libgcc_s.so.1]\n\
                    \x200x0000000000000001 (NEEDED)             Shared library: [libc.so.6]\n\
                    \x200x000000000000000c (INIT)               0x1000\n";
        assert_eq!(
            parse(text),
            ["/lib64/ld-linux-x86-64.so.2", "libgcc_s.so.1", "libc.so.6"]
        );
        assert!(parse("There is no dynamic section in this file.").is_empty());
    }
}
