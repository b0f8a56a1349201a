//! The program of the built-in sandbox image: it holds a pod's namespaces, reaps what is left to it as the first process of a
//! shared PID namespace, and ends on SIGINT or SIGTERM.
//!
//! It is a file of one segment, and the machine code below; [`EXECUTABLE`] is none on other processors.

/// What a sandbox runs.
pub(super) const EXECUTABLE: Option<Program> = match () {
    () if cfg!(target_arch = "x86_64") => Some(Program {
        architecture: "amd64",
        machine: 62,
        code: &X86_64,
    }),
    () if cfg!(target_arch = "aarch64") => Some(Program {
        architecture: "arm64",
        machine: 183,
        code: &AARCH64,
    }),
    () => None,
};

/// A program for one kind of processor.
#[derive(Clone, Copy)]
pub(super) struct Program {
    /// The processor, as images name it.
    pub(super) architecture: &'static str,
    /// The processor, as ELF numbers it (`e_machine`).
    machine: u16,
    code: &'static [u8],
}

/// Where the file is loaded.
const BASE: u64 = 0x40_0000;
/// Bytes of the ELF header, and of the one program header behind it.
const HEADERS: u64 = 64 + 56;

impl Program {
    /// The file (ELF-64, little-endian, `ET_EXEC`).
    pub(super) fn elf(self) -> Vec<u8> {
        let size = HEADERS + self.code.len() as u64;
        let mut file = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
        // e_ident: magic, 64 bits, little-endian, version 1.
        file.extend([0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let mut half = |value: u16| file.extend(value.to_le_bytes());
        half(2); // ET_EXEC
        half(self.machine);
        file.extend(1_u32.to_le_bytes());
        file.extend((BASE + HEADERS).to_le_bytes()); // e_entry
        file.extend(64_u64.to_le_bytes()); // e_phoff
        file.extend(0_u64.to_le_bytes()); // e_shoff
        file.extend(0_u32.to_le_bytes()); // e_flags
        for value in [64_u16, 56, 1, 64, 0, 0] {
            file.extend(value.to_le_bytes());
        }
        file.extend(1_u32.to_le_bytes()); // PT_LOAD
        file.extend(5_u32.to_le_bytes()); // read and execute
        for value in [0, BASE, BASE, size, size, 0x1000] {
            file.extend(value.to_le_bytes());
        }
        file.extend(self.code);
        file
    }
}

#[rustfmt::skip]
const X86_64: [u8; 0x73] = [
    0x48, 0x83, 0xec, 0x10,                         //     sub rsp, 16
    0x48, 0xc7, 0x04, 0x24, 0xff, 0xff, 0xff, 0xff, //     mov qword ptr [rsp], -1
    0xb8, 0x0e, 0x00, 0x00, 0x00,                   //     mov eax, 14            rt_sigprocmask(SIG_BLOCK, all, 0, 8)
    0x31, 0xff,                                     //     xor edi, edi
    0x48, 0x89, 0xe6,                               //     mov rsi, rsp
    0x31, 0xd2,                                     //     xor edx, edx
    0x41, 0xba, 0x08, 0x00, 0x00, 0x00,             //     mov r10d, 8
    0x0f, 0x05,                                     //     syscall
    0xc7, 0x04, 0x24, 0x02, 0x40, 0x01, 0x00,       //     mov dword ptr [rsp], 0x14002   INT, TERM, CHLD
    0xc7, 0x44, 0x24, 0x04, 0x00, 0x00, 0x00, 0x00, //     mov dword ptr [rsp+4], 0
    0xb8, 0x80, 0x00, 0x00, 0x00,                   // 1:  mov eax, 128           rt_sigtimedwait(these, 0, 0, 8)
    0x48, 0x89, 0xe7,                               //     mov rdi, rsp
    0x31, 0xf6,                                     //     xor esi, esi
    0x31, 0xd2,                                     //     xor edx, edx
    0x41, 0xba, 0x08, 0x00, 0x00, 0x00,             //     mov r10d, 8
    0x0f, 0x05,                                     //     syscall
    0x83, 0xf8, 0x11,                               //     cmp eax, 17            SIGCHLD
    0x74, 0x0d,                                     //     je 2f
    0x85, 0xc0,                                     //     test eax, eax
    0x78, 0xe3,                                     //     js 1b
    0xb8, 0x3c, 0x00, 0x00, 0x00,                   //     mov eax, 60            exit(0)
    0x31, 0xff,                                     //     xor edi, edi
    0x0f, 0x05,                                     //     syscall
    0xb8, 0x3d, 0x00, 0x00, 0x00,                   // 2:  mov eax, 61            wait4(-1, 0, WNOHANG, 0)
    0x48, 0xc7, 0xc7, 0xff, 0xff, 0xff, 0xff,       //     mov rdi, -1
    0x31, 0xf6,                                     //     xor esi, esi
    0xba, 0x01, 0x00, 0x00, 0x00,                   //     mov edx, 1
    0x45, 0x31, 0xd2,                               //     xor r10d, r10d
    0x0f, 0x05,                                     //     syscall
    0x85, 0xc0,                                     //     test eax, eax
    0x7f, 0xe4,                                     //     jg 2b
    0xeb, 0xbc,                                     //     jmp 1b
];

#[rustfmt::skip]
const AARCH64: [u8; 0x84] = [
    0xff, 0x43, 0x00, 0xd1, //     sub sp, sp, #16
    0x09, 0x00, 0x80, 0x92, //     mov x9, #-1
    0xe9, 0x03, 0x00, 0xf9, //     str x9, [sp]
    0xe8, 0x10, 0x80, 0xd2, //     mov x8, #135           rt_sigprocmask(SIG_BLOCK, all, 0, 8)
    0x00, 0x00, 0x80, 0xd2, //     mov x0, #0
    0xe1, 0x03, 0x00, 0x91, //     mov x1, sp
    0x02, 0x00, 0x80, 0xd2, //     mov x2, #0
    0x03, 0x01, 0x80, 0xd2, //     mov x3, #8
    0x01, 0x00, 0x00, 0xd4, //     svc #0
    0x49, 0x00, 0x88, 0xd2, //     mov x9, #0x4002        INT, TERM
    0x29, 0x00, 0xa0, 0xf2, //     movk x9, #1, lsl #16   CHLD
    0xe9, 0x03, 0x00, 0xf9, //     str x9, [sp]
    0x28, 0x11, 0x80, 0xd2, // 1:  mov x8, #137           rt_sigtimedwait(these, 0, 0, 8)
    0xe0, 0x03, 0x00, 0x91, //     mov x0, sp
    0x01, 0x00, 0x80, 0xd2, //     mov x1, #0
    0x02, 0x00, 0x80, 0xd2, //     mov x2, #0
    0x03, 0x01, 0x80, 0xd2, //     mov x3, #8
    0x01, 0x00, 0x00, 0xd4, //     svc #0
    0x1f, 0x44, 0x00, 0x71, //     cmp w0, #17            SIGCHLD
    0xa0, 0x00, 0x00, 0x54, //     b.eq 2f
    0x00, 0xff, 0xff, 0x37, //     tbnz w0, #31, 1b
    0xa8, 0x0b, 0x80, 0xd2, //     mov x8, #93            exit(0)
    0x00, 0x00, 0x80, 0xd2, //     mov x0, #0
    0x01, 0x00, 0x00, 0xd4, //     svc #0
    0x88, 0x20, 0x80, 0xd2, // 2:  mov x8, #260           wait4(-1, 0, WNOHANG, 0)
    0x00, 0x00, 0x80, 0x92, //     mov x0, #-1
    0x01, 0x00, 0x80, 0xd2, //     mov x1, #0
    0x22, 0x00, 0x80, 0xd2, //     mov x2, #1
    0x03, 0x00, 0x80, 0xd2, //     mov x3, #0
    0x01, 0x00, 0x00, 0xd4, //     svc #0
    0x1f, 0x00, 0x00, 0x71, //     cmp w0, #0
    0x2c, 0xff, 0xff, 0x54, //     b.gt 2b
    0xec, 0xff, 0xff, 0x17, //     b 1b
];

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
    use std::process::Command;
    use std::time::Duration;

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    use super::*;

    /// How often something is looked at that is about to be so, and how long after one another.
    const TRIES: usize = 500;
    const PAUSE: Duration = Duration::from_millis(20);

    /// It runs on this very machine: it waits, through signals that are none of its, and ends when it is told to.
    #[test]
    fn the_program_waits_until_it_is_told_to_end() {
        let Some(program) = EXECUTABLE else {
            return;
        };
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("pause");
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true).mode(0o755);
        {
            let mut file = options.open(&path).unwrap();
            std::io::Write::write_all(&mut file, &program.elf()).unwrap();
        }
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o755
        );
        let begin = || {
            // Another thread's child may still hold the file open for writing.
            for _ in 0..TRIES {
                if let Ok(child) = Command::new(&path).spawn() {
                    return child;
                }
                std::thread::sleep(PAUSE);
            }
            panic!("it cannot be run")
        };
        for signal in [Signal::SIGTERM, Signal::SIGINT] {
            let mut child = begin();
            let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
            // It has blocked what would end it once it waits for a signal.
            let waits = || {
                let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
                let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:"));
                blocked.is_some_and(|mask| mask.trim().starts_with("fffffff"))
                    && status.contains("S (sleeping)")
            };
            let mut looks = (0..TRIES).map(|_| {
                std::thread::sleep(PAUSE);
                waits()
            });
            assert!(looks.any(|waits| waits));
            kill(pid, Signal::SIGHUP).unwrap();
            kill(pid, Signal::SIGCHLD).unwrap();
            std::thread::sleep(Duration::from_millis(50));
            assert!(child.try_wait().unwrap().is_none(), "it has ended");
            kill(pid, signal).unwrap();
            assert_eq!(child.wait().unwrap().code(), Some(0));
        }
    }
}
