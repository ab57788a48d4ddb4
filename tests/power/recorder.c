// Records what a process does to the files below a directory, call by call, for the power-cut matrix; or has one of these
// calls fail, and the clock jump, for the fault matrix.
//
// Preloaded (LD_PRELOAD), it has the kernel trap every system call that changes files (seccomp), so that
// calls past the C library are seen too, makes the call itself, and appends what was done to a trace. One
// lock makes the order of the trace that of the calls, over all threads.
//
//   RECORD_ROOT   the directory, an absolute path without links
//   RECORD_TRACE  the trace: a file that is appended to; none is kept without it
//   FAULT_CALL    what fails: open, write, sync, rename, unlink, mkdir or truncate
//   FAULT_ERRNO   with which error
//   FAULT_AT      the first of these calls that fails, from 1; FAULT_COUNT: how many fail
//   FAULT_LOG     a file to which the path of each failed call is appended, a line each
//   CLOCK_FILE    a file of an i64: seconds by which the clock of the wall is off, now
//
// An entry of the trace, little-endian: u8 kind, u64 inode, u64 a, u32 bytes of the first text,
// u32 bytes of the second one or of the data, then both. Paths are relative to the directory.
//
//   C create   inode, path             T truncate   inode, a = length
//   W write    inode, a = offset, data F fsync      inode, a = 1 where only the data
//   R rename   path, path              L link       path, path
//   U unlink   path                    M mkdir      path
//   D rmdir    path                    S fsync of a directory   path
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

// In the sixth argument of a call that the recorder makes itself.
#define OURS 0x53544b52L

#if defined(__x86_64__)
#define ARCH AUDIT_ARCH_X86_64
#define ARG(n) ((long)context->uc_mcontext.gregs[(int[]){REG_RDI, REG_RSI, REG_RDX, REG_R10, REG_R8, REG_R9}[n]])
#define RESULT context->uc_mcontext.gregs[REG_RAX]
#elif defined(__aarch64__)
#define ARCH AUDIT_ARCH_AARCH64
#define ARG(n) ((long)context->uc_mcontext.regs[n])
#define RESULT context->uc_mcontext.regs[0]
#else
#error "the recorder knows x86_64 and aarch64"
#endif

static char root[PATH_MAX];
static size_t root_len;
static int trace_fd = -1;
static volatile int locked;
static const char *fault_call, *fault_log;
static long fault_errno, fault_at, fault_count, fault_seen;
static const volatile int64_t *clock_offset;

static long call(long nr, long a, long b, long c, long d, long e) {
    long result = syscall(nr, a, b, c, d, e, OURS);
    return result == -1 ? -errno : result;
}

static void lock(void) {
    while (__atomic_exchange_n(&locked, 1, __ATOMIC_ACQUIRE)) call(SYS_sched_yield, 0, 0, 0, 0, 0);
}

static void unlock(void) { __atomic_store_n(&locked, 0, __ATOMIC_RELEASE); }

struct __attribute__((packed)) head {
    uint8_t kind;
    uint64_t inode, a;
    uint32_t first, second;
};

static void all(struct iovec *parts, int count) {
    while (count > 0) {
        long done = call(SYS_writev, trace_fd, (long)parts, count, 0, 0);
        if (done == -EINTR) continue;
        if (done < 0) abort();
        while (count > 0 && (size_t)done >= parts->iov_len) {
            done -= parts->iov_len;
            parts++;
            count--;
        }
        if (count > 0) {
            parts->iov_base = (char *)parts->iov_base + done;
            parts->iov_len -= done;
        }
    }
}

// The error with which this `what` of `name` fails, below 0; 0 if it does not fail.
static long fault(const char *what, const char *name) {
    if (!fault_call || strcmp(what, fault_call) != 0) return 0;
    long nth = __atomic_add_fetch(&fault_seen, 1, __ATOMIC_RELAXED);
    if (nth < fault_at || nth - fault_at >= fault_count) return 0;
    long fd = fault_log ? call(SYS_openat, AT_FDCWD, (long)fault_log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600, 0) : -1;
    if (fd >= 0) {
        struct iovec parts[2] = {{(void *)name, strlen(name)}, {(void *)"\n", 1}};
        call(SYS_writev, fd, (long)parts, 2, 0, 0);
        call(SYS_close, fd, 0, 0, 0, 0);
    }
    return -fault_errno;
}

static void record(char kind, uint64_t inode, uint64_t a, const void *first, size_t first_len, const void *second,
                   size_t second_len) {
    if (trace_fd < 0) return;
    struct head head = {(uint8_t)kind, inode, a, (uint32_t)first_len, (uint32_t)second_len};
    struct iovec parts[3] = {{&head, sizeof head}, {(void *)first, first_len}, {(void *)second, second_len}};
    all(parts, 3);
}

static void record_paths(char kind, uint64_t inode, const char *first, const char *second) {
    record(kind, inode, 0, first, strlen(first), second, second ? strlen(second) : 0);
}

// The part of `path` below the directory, or none.
static const char *below(const char *path) {
    if (strncmp(path, root, root_len) != 0) return NULL;
    if (path[root_len] == 0) return path + root_len;
    return path[root_len] == '/' ? path + root_len + 1 : NULL;
}

static int path_of_fd(int fd, char *out) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    long len = call(SYS_readlinkat, AT_FDCWD, (long)link, (long)out, PATH_MAX - 1, 0);
    if (len < 0) return 0;
    out[len] = 0;
    return 1;
}

// `path` from `dir`, absolute, without `.` and double slashes at the joints.
static const char *resolved(int dir, const char *path, char *out) {
    if (path == NULL) return NULL;
    if (path[0] == '/') {
        snprintf(out, PATH_MAX, "%s", path);
    } else {
        char base[PATH_MAX];
        if (dir == AT_FDCWD) {
            if (call(SYS_getcwd, (long)base, PATH_MAX, 0, 0, 0) < 0) return NULL;
        } else if (!path_of_fd(dir, base)) {
            return NULL;
        }
        if (snprintf(out, PATH_MAX, "%s/%s", base, path) >= PATH_MAX) return NULL;
    }
    size_t len = strlen(out);
    while (len > 1 && out[len - 1] == '/') out[--len] = 0;
    return below(out);
}

static uint64_t inode_of(int fd, int *is_dir, int64_t *size) {
    struct stat stat;
    // An empty path: the descriptor itself.
    if (call(SYS_newfstatat, fd, (long)"", (long)&stat, AT_EMPTY_PATH, 0) < 0) return 0;
    if (is_dir) *is_dir = S_ISDIR(stat.st_mode);
    if (size) *size = stat.st_size;
    return stat.st_ino;
}

// Whether `fd` is a file or directory below the root; its path there.
static const char *tracked(int fd, char *out) {
    if (!path_of_fd(fd, out)) return NULL;
    return below(out);
}

static long opened(int dir, const char *path, long flags, long mode) {
    char full[PATH_MAX];
    const char *name = (fault_call || (flags & (O_CREAT | O_TRUNC))) ? resolved(dir, path, full) : NULL;
    long failed = name ? fault("open", name) : 0;
    if (failed) return failed;
    if (!(flags & (O_CREAT | O_TRUNC))) name = NULL;
    if (name == NULL || (flags & O_TMPFILE) == O_TMPFILE) return call(SYS_openat, dir, (long)path, flags, mode, 0);
    lock();
    struct stat stat;
    int was_there = call(SYS_newfstatat, AT_FDCWD, (long)full, (long)&stat, 0, 0) == 0;
    long fd = call(SYS_openat, dir, (long)path, flags, mode, 0);
    if (fd >= 0) {
        uint64_t inode = inode_of((int)fd, NULL, NULL);
        if (!was_there) record_paths('C', inode, name, NULL);
        else if ((flags & O_TRUNC) && stat.st_size > 0) record('T', inode, 0, NULL, 0, NULL, 0);
    }
    unlock();
    return fd;
}

static long wrote(long nr, int fd, const struct iovec *parts, int count, int64_t offset) {
    char path[PATH_MAX];
    if (!tracked(fd, path)) {
        return offset < 0 ? call(nr, fd, (long)(nr == SYS_write ? parts->iov_base : parts),
                                 nr == SYS_write ? (long)parts->iov_len : count, 0, 0)
                          : call(nr, fd, (long)(nr == SYS_pwrite64 ? parts->iov_base : parts),
                                 nr == SYS_pwrite64 ? (long)parts->iov_len : count, offset, 0);
    }
    const char *name = below(path);
    long failed = fault("write", name);
    if (failed) return failed;
    lock();
    long done;
    int64_t at = offset;
    if (offset < 0) {
        done = call(SYS_writev, fd, (long)parts, count, 0, 0);
        if (done > 0) at = call(SYS_lseek, fd, 0, SEEK_CUR, 0, 0) - done;
    } else {
        done = call(SYS_pwritev, fd, (long)parts, count, offset, 0);
    }
    if (done > 0) {
        uint64_t inode = inode_of(fd, NULL, NULL);
        long left = done;
        for (int part = 0; part < count && left > 0; part++) {
            size_t len = parts[part].iov_len < (size_t)left ? parts[part].iov_len : (size_t)left;
            record('W', inode, (uint64_t)at, NULL, 0, parts[part].iov_base, len);
            at += (int64_t)len;
            left -= (long)len;
        }
    }
    unlock();
    return done;
}

static long synced(long nr, int fd) {
    char path[PATH_MAX];
    const char *name = tracked(fd, path);
    if (!name) return call(nr, fd, 0, 0, 0, 0);
    long failed = fault("sync", name);
    if (failed) return failed;
    lock();
    int is_dir = 0;
    uint64_t inode = inode_of(fd, &is_dir, NULL);
    long done = call(nr, fd, 0, 0, 0, 0);
    if (done == 0) {
        if (is_dir) record_paths('S', inode, name, NULL);
        else record('F', inode, nr == SYS_fdatasync, NULL, 0, NULL, 0);
    }
    unlock();
    return done;
}

static long truncated(int fd, int64_t len) {
    char path[PATH_MAX];
    const char *name = tracked(fd, path);
    if (!name) return call(SYS_ftruncate, fd, len, 0, 0, 0);
    long failed = fault("truncate", name);
    if (failed) return failed;
    lock();
    long done = call(SYS_ftruncate, fd, len, 0, 0, 0);
    if (done == 0) record('T', inode_of(fd, NULL, NULL), (uint64_t)len, NULL, 0, NULL, 0);
    unlock();
    return done;
}

static long one_path(char kind, long nr, int dir, const char *path, long more) {
    char full[PATH_MAX];
    const char *name = resolved(dir, path, full);
    if (!name) return call(nr, dir, (long)path, more, 0, 0);
    long failed = fault(kind == 'U' ? "unlink" : "mkdir", name);
    if (failed) return failed;
    lock();
    long done = call(nr, dir, (long)path, more, 0, 0);
    if (done == 0) record_paths(kind == 'U' && (more & AT_REMOVEDIR) ? 'D' : kind, 0, name, NULL);
    unlock();
    return done;
}

static long two_paths(char kind, long nr, int from_dir, const char *from, int to_dir, const char *to, long flags) {
    char from_full[PATH_MAX], to_full[PATH_MAX];
    const char *first = resolved(from_dir, from, from_full), *second = resolved(to_dir, to, to_full);
    if (!first || !second) return call(nr, from_dir, (long)from, to_dir, (long)to, flags);
    long failed = fault("rename", second);
    if (failed) return failed;
    lock();
    long done = call(nr, from_dir, (long)from, to_dir, (long)to, flags);
    if (done == 0) record_paths(kind, 0, first, second);
    unlock();
    return done;
}

static void trapped(int signal, siginfo_t *info, void *raw) {
    (void)signal;
    ucontext_t *context = raw;
    int kept = errno;
    long result = -ENOSYS;
    struct iovec one;
    switch (info->si_syscall) {
#ifdef SYS_open
    case SYS_open: result = opened(AT_FDCWD, (char *)ARG(0), ARG(1), ARG(2)); break;
    case SYS_creat: result = opened(AT_FDCWD, (char *)ARG(0), O_CREAT | O_WRONLY | O_TRUNC, ARG(1)); break;
    case SYS_rename: result = two_paths('R', SYS_renameat2, AT_FDCWD, (char *)ARG(0), AT_FDCWD, (char *)ARG(1), 0); break;
    case SYS_link: result = two_paths('L', SYS_linkat, AT_FDCWD, (char *)ARG(0), AT_FDCWD, (char *)ARG(1), 0); break;
    case SYS_unlink: result = one_path('U', SYS_unlinkat, AT_FDCWD, (char *)ARG(0), 0); break;
    case SYS_rmdir: result = one_path('U', SYS_unlinkat, AT_FDCWD, (char *)ARG(0), AT_REMOVEDIR); break;
    case SYS_mkdir: result = one_path('M', SYS_mkdirat, AT_FDCWD, (char *)ARG(0), ARG(1)); break;
#endif
#ifdef SYS_renameat
    case SYS_renameat: result = two_paths('R', SYS_renameat2, ARG(0), (char *)ARG(1), ARG(2), (char *)ARG(3), 0); break;
#endif
    case SYS_openat: result = opened((int)ARG(0), (char *)ARG(1), ARG(2), ARG(3)); break;
    case SYS_renameat2: result = two_paths('R', SYS_renameat2, ARG(0), (char *)ARG(1), ARG(2), (char *)ARG(3), ARG(4)); break;
    case SYS_linkat: result = two_paths('L', SYS_linkat, ARG(0), (char *)ARG(1), ARG(2), (char *)ARG(3), ARG(4)); break;
    case SYS_unlinkat: result = one_path('U', SYS_unlinkat, (int)ARG(0), (char *)ARG(1), ARG(2)); break;
    case SYS_mkdirat: result = one_path('M', SYS_mkdirat, (int)ARG(0), (char *)ARG(1), ARG(2)); break;
    case SYS_write:
        one = (struct iovec){(void *)ARG(1), (size_t)ARG(2)};
        result = wrote(SYS_write, (int)ARG(0), &one, 1, -1);
        break;
    case SYS_pwrite64:
        one = (struct iovec){(void *)ARG(1), (size_t)ARG(2)};
        result = wrote(SYS_pwrite64, (int)ARG(0), &one, 1, ARG(3));
        break;
    case SYS_writev: result = wrote(SYS_writev, (int)ARG(0), (struct iovec *)ARG(1), (int)ARG(2), -1); break;
    case SYS_pwritev: result = wrote(SYS_pwritev, (int)ARG(0), (struct iovec *)ARG(1), (int)ARG(2), ARG(3)); break;
    case SYS_fsync:
    case SYS_fdatasync: result = synced(info->si_syscall, (int)ARG(0)); break;
    case SYS_ftruncate: result = truncated((int)ARG(0), ARG(1)); break;
    // Those that ask for these go on with other calls.
    case SYS_copy_file_range:
    case SYS_sendfile:
    case SYS_fallocate:
    case SYS_truncate:
    case SYS_symlinkat: result = -ENOSYS; break;
    }
    RESULT = result;
    errno = kept;
}

static const int TRAPPED[] = {
#ifdef SYS_open
    SYS_open, SYS_creat, SYS_rename, SYS_link, SYS_unlink, SYS_rmdir, SYS_mkdir,
#endif
#ifdef SYS_renameat
    SYS_renameat,
#endif
    SYS_openat, SYS_renameat2, SYS_linkat, SYS_unlinkat, SYS_mkdirat, SYS_write, SYS_pwrite64, SYS_writev, SYS_pwritev,
    SYS_fsync, SYS_fdatasync, SYS_ftruncate, SYS_copy_file_range, SYS_sendfile, SYS_fallocate, SYS_truncate,
    SYS_symlinkat,
};
#define TRAPS ((int)(sizeof TRAPPED / sizeof TRAPPED[0]))

int clock_gettime(clockid_t id, struct timespec *now) {
    long done = syscall(SYS_clock_gettime, id, now);
    if (done == 0 && id == CLOCK_REALTIME && clock_offset) now->tv_sec += *clock_offset;
    return (int)done;
}

__attribute__((constructor)) static void begin(void) {
    const char *where = getenv("RECORD_ROOT"), *trace = getenv("RECORD_TRACE"), *clock = getenv("CLOCK_FILE");
    if (clock) {
        int fd = open(clock, O_RDONLY | O_CLOEXEC);
        void *offset = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, fd, 0);
        if (offset == MAP_FAILED) abort();
        close(fd);
        clock_offset = offset;
    }
    if (!where) return;
    fault_call = getenv("FAULT_CALL");
    fault_log = getenv("FAULT_LOG");
    const char *error = getenv("FAULT_ERRNO"), *at_call = getenv("FAULT_AT"), *count = getenv("FAULT_COUNT");
    if (fault_call && (!error || !at_call || !count)) abort();
    if (fault_call) fault_errno = atol(error), fault_at = atol(at_call), fault_count = atol(count);
    if (!fault_call && !trace) return;
    snprintf(root, sizeof root, "%s", where);
    root_len = strlen(root);
    if (trace) trace_fd = open(trace, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (trace && trace_fd < 0) abort();
    struct sigaction action = {.sa_sigaction = trapped, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_RESTART};
    if (sigaction(SIGSYS, &action, NULL) != 0) abort();

    struct sock_filter filter[TRAPS + 8];
    int at = 0;
    filter[at++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch));
    filter[at++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCH, 0, TRAPS + 3);
    filter[at++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[5]));
    filter[at++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, OURS, TRAPS + 1, 0);
    filter[at++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (int trap = 0; trap < TRAPS; trap++) {
        int to_trap = TRAPS - trap;
        filter[at++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)TRAPPED[trap], to_trap, 0);
    }
    filter[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    filter[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP);
    struct sock_fprog program = {(unsigned short)at, filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) abort();
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) abort();
}
