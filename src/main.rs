//! The `deskgate` command: arguments, exit codes, and nothing else.

mod command;

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Huge pages hold memory that nobody uses: 18 MB at the start alone. Without the option it works.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    command::main()
}
