//! Where the matcher tells what it does. The silent sink compiles to nothing, so that explaining and deciding are one
//! piece of code.

/// Takes one line for each step.
pub(super) trait Trace {
    /// Notes a step; `line` runs only if somebody reads it.
    fn note(&mut self, line: impl FnOnce() -> String);
}

/// Nobody reads.
pub(super) struct Silent;

impl Trace for Silent {
    #[inline(always)]
    fn note(&mut self, _: impl FnOnce() -> String) {}
}

/// Keeps the lines.
#[derive(Default)]
pub(super) struct Lines(pub(super) Vec<String>);

impl Trace for Lines {
    fn note(&mut self, line: impl FnOnce() -> String) {
        self.0.push(line());
    }
}
