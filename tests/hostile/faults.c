/* Ends the process at the n-th call that changes files below a folder, and remembers what of them had reached the disk.

   Loaded with LD_PRELOAD; does nothing until faults_arm() is called. The chosen call is not carried out (of a write,
   the first half is), and the process ends by SIGKILL. With a shadow folder, the content that a file had when it was
   last synced is kept there under its inode's number: what a loss of power leaves. Other than that, nothing changes. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char root[PATH_MAX], shadow[PATH_MAX], kinds[128];
static volatile long at, seen;
static volatile int armed;

void faults_arm(const char *folder, const char *of_kinds, long end_at, const char *shadow_folder) {
    snprintf(root, sizeof root, "%s", folder);
    snprintf(shadow, sizeof shadow, "%s", shadow_folder);
    snprintf(kinds, sizeof kinds, "%s", of_kinds);
    at = end_at;
    seen = 0;
    armed = 1;
}

long faults_seen(void) { return seen; }

static int inside(const char *path) { return strncmp(path, root, strlen(root)) == 0; }

static int path_of(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return inside(path);
}

static int resolved(int folder, const char *name, char *path) {
    if (name[0] == '/') {
        snprintf(path, PATH_MAX, "%s", name);
    } else if (folder == AT_FDCWD) {
        if (!getcwd(path, PATH_MAX)) return 0;
        strncat(path, "/", PATH_MAX - strlen(path) - 1);
        strncat(path, name, PATH_MAX - strlen(path) - 1);
    } else {
        char link[64];
        snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        ssize_t length = readlink(link, path, PATH_MAX - 1);
        if (length < 0) return 0;
        path[length] = 0;
        strncat(path, "/", PATH_MAX - strlen(path) - 1);
        strncat(path, name, PATH_MAX - strlen(path) - 1);
    }
    return inside(path);
}

/* Returns whether this call is the one at which the process ends. */
static int chosen(const char *kind) {
    if (!strstr(kinds, kind)) return 0;
    return __sync_add_and_fetch(&seen, 1) == at;
}

static void end(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static void keep(int fd) {
    struct stat facts;
    char name[PATH_MAX + 32], block[65536];
    if (!shadow[0] || fstat(fd, &facts) || !S_ISREG(facts.st_mode)) return;
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    int from = REAL(open)(name, O_RDONLY);
    snprintf(name, sizeof name, "%s/%lu", shadow, (unsigned long)facts.st_ino);
    int to = REAL(open)(name, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    ssize_t length;
    while (from >= 0 && to >= 0 && (length = read(from, block, sizeof block)) > 0)
        if (REAL(write)(to, block, length) < 0) break;
    if (from >= 0) close(from);
    if (to >= 0) close(to);
}

static void forget(const char *path) {
    struct stat facts;
    char name[PATH_MAX + 32];
    if (!shadow[0] || lstat(path, &facts) || facts.st_nlink > 1) return;
    snprintf(name, sizeof name, "%s/%lu", shadow, (unsigned long)facts.st_ino);
    REAL(unlink)(name);
}

int fsync(int fd) {
    char path[PATH_MAX];
    int ours = armed && path_of(fd, path);
    if (ours && chosen("fsync")) end();
    int result = REAL(fsync)(fd);
    if (ours && !result) keep(fd);
    return result;
}

int fdatasync(int fd) {
    char path[PATH_MAX];
    int ours = armed && path_of(fd, path);
    if (ours && chosen("fsync")) end();
    int result = REAL(fdatasync)(fd);
    if (ours && !result) keep(fd);
    return result;
}

int rename(const char *from, const char *to) {
    char path[PATH_MAX];
    if (armed && resolved(AT_FDCWD, to, path)) {
        if (chosen("rename")) end();
        forget(path);
    }
    return REAL(rename)(from, to);
}

int renameat(int from_folder, const char *from, int to_folder, const char *to) {
    char path[PATH_MAX];
    if (armed && resolved(to_folder, to, path)) {
        if (chosen("rename")) end();
        forget(path);
    }
    return REAL(renameat)(from_folder, from, to_folder, to);
}

int link(const char *from, const char *to) {
    char path[PATH_MAX];
    if (armed && resolved(AT_FDCWD, to, path) && chosen("rename")) end();
    return REAL(link)(from, to);
}

int unlink(const char *name) {
    char path[PATH_MAX];
    if (armed && resolved(AT_FDCWD, name, path)) {
        if (chosen("unlink")) end();
        forget(path);
    }
    return REAL(unlink)(name);
}

int unlinkat(int folder, const char *name, int flags) {
    char path[PATH_MAX];
    if (armed && resolved(folder, name, path)) {
        if (chosen("unlink")) end();
        if (!(flags & AT_REMOVEDIR)) forget(path);
    }
    return REAL(unlinkat)(folder, name, flags);
}

int rmdir(const char *name) {
    char path[PATH_MAX];
    if (armed && resolved(AT_FDCWD, name, path) && chosen("unlink")) end();
    return REAL(rmdir)(name);
}

int mkdir(const char *name, mode_t mode) {
    char path[PATH_MAX];
    if (armed && resolved(AT_FDCWD, name, path) && chosen("mkdir")) end();
    return REAL(mkdir)(name, mode);
}

int ftruncate(int fd, off_t length) {
    char path[PATH_MAX];
    if (armed && path_of(fd, path) && chosen("write")) end();
    return REAL(ftruncate)(fd, length);
}

int ftruncate64(int fd, off64_t length) {
    char path[PATH_MAX];
    if (armed && path_of(fd, path) && chosen("write")) end();
    return REAL(ftruncate64)(fd, length);
}

ssize_t write(int fd, const void *data, size_t length) {
    char path[PATH_MAX];
    if (armed && path_of(fd, path) && chosen("write")) {
        if (REAL(write)(fd, data, length / 2) >= 0) end();
        end();
    }
    return REAL(write)(fd, data, length);
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) {
    char path[PATH_MAX];
    if (armed && path_of(fd, path) && chosen("write")) {
        if (REAL(pwrite)(fd, data, length / 2, offset) >= 0) end();
        end();
    }
    return REAL(pwrite)(fd, data, length, offset);
}

ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset) {
    char path[PATH_MAX];
    if (armed && path_of(fd, path) && chosen("write")) {
        if (REAL(pwrite64)(fd, data, length / 2, offset) >= 0) end();
        end();
    }
    return REAL(pwrite64)(fd, data, length, offset);
}

ssize_t writev(int fd, const struct iovec *pieces, int count) {
    char path[PATH_MAX];
    if (armed && path_of(fd, path) && chosen("write")) end();
    return REAL(writev)(fd, pieces, count);
}
