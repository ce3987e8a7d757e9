/* internal.h: what the files of the PTX machine share. */
#ifndef PTX_INTERNAL_H
#define PTX_INTERNAL_H

#include "ptx.h"

/* Where shared and local memory lie among generic addresses. */
#define SHARED_WINDOW ((uint64_t)1 << 56)
#define LOCAL_WINDOW ((uint64_t)2 << 56)

enum { LANES = 64, MAX_DST = 4, MAX_SRC = 5, MAX_OPERANDS = 6, WARP = 32 };

/* What an operand holds; its bytes in a register of the machine are LANES of these. */
typedef enum ptx_tag {
    T_NONE,
    T_pr,
    T_u8,
    T_s8,
    T_u16,
    T_s16,
    T_u32,
    T_s32,
    T_f32,
    T_u64,
    T_s64,
    T_f64
} ptx_tag;
int32_t ptx__tag_bytes(ptx_tag t);

/* ---- operations without memory (ops.def, ops.c) ---- */
typedef struct ptx_insn ptx_insn;
typedef void ptx_full_fn(char *regs, const ptx_insn *i);
typedef void ptx_masked_fn(char *regs, const ptx_insn *i, const uint32_t *mask);
typedef struct ptx_op {
    const char *names; /* mnemonics, separated by spaces */
    uint8_t n_src, tag[1 + MAX_SRC];
    ptx_full_fn *full;
    ptx_masked_fn *masked; /* lanes with mask 0 keep their value */
} ptx_op;
typedef struct ptx_level {
    const ptx_op *ops; /* ends with names NULL */
    /* One bit a lane of a predicate or mask. */
    uint64_t (*bits)(const uint32_t *lanes);
    /* Adds imm to the addresses of all lanes, and gives least, greatest and the or of those in
     * mask. */
    void (*addresses)(const int64_t *base, int64_t imm, uint64_t bits, int64_t *out, int64_t *lo,
                      int64_t *hi, int64_t *any);
    /* Is lane l's address lo + l * bytes for all lanes? */
    bool (*is_row)(const int64_t *at, int64_t lo, int64_t bytes);
} ptx_level;
extern const ptx_level ptx__level_base, ptx__level_v3;
/* The best that this machine has. */
const ptx_level *ptx__level(void);

/* ---- instructions ---- */
typedef enum ptx_kind {
    K_OP,
    K_MEM,
    K_BRA,
    K_BAR,
    K_RET,
    K_TRAP,
    K_UNPACK,
    K_PACK,
    K_NOP
} ptx_kind;
typedef enum ptx_space { S_GENERIC, S_GLOBAL, S_SHARED, S_LOCAL, S_PARAM } ptx_space;

struct ptx_insn {
    ptx_full_fn *full;
    ptx_masked_fn *masked;
    uint8_t kind, space, store, sign; /* sign: a narrower load extends its sign */
    uint8_t n, bytes, reg_bytes; /* memory: elements (1, 2, 4), bytes of one, of its register */
    uint8_t leader, guard_not;
    uint8_t addr_bytes;             /* 0: no base register */
    int32_t guard;                  /* offset of the predicate or -1 */
    int32_t target;                 /* branch: index */
    int32_t d[MAX_DST], s[MAX_SRC]; /* offsets of registers; before ptx__place: their numbers */
    int64_t imm;                    /* memory: added to the base */
    int32_t line, counter;          /* counter: of this memory instruction, or -1 */
    const char *name;
};

/* ---- registers ---- */
enum {
    SPECIAL_TID,
    SPECIAL_NTID = 3,
    SPECIAL_CTAID = 6,
    SPECIAL_NCTAID = 9,
    SPECIAL_LANE = 12,
    SPECIAL_WARP,
    SPECIALS
};
/* Virtual registers of a function: the special ones, then constants and declared ones as they come.
 */
typedef struct ptx_reg {
    uint8_t bytes; /* 0: predicate; else 2, 4, 8 */
    bool constant;
    uint64_t value; /* of a constant */
    int32_t defs;   /* instructions that write it */
    int32_t same;   /* register whose value it has (a copy), or -1 */
    int32_t offset; /* in the register file */
} ptx_reg;

typedef struct ptx_var { /* shared, local, parameter or module variable */
    const char *name;
    ptx_space space;
    uint64_t address; /* offset in its space; device address for S_GLOBAL */
    int32_t bytes;
} ptx_var;

typedef struct ptx_shadow_counts {
    int64_t requests, units, ideal;
    int32_t worst;
} ptx_shadow_counts;

struct ptx_function {
    ptx_module *module;
    const char *name;
    ptx_insn *code;
    int32_t n_code, cap_code;
    ptx_reg *regs;
    int32_t n_regs, cap_regs, first_constant; /* first_constant: 0: none yet */
    int32_t file_bytes;                       /* of the registers of a wave */
    ptx_var *vars;                            /* parameters first */
    int32_t n_vars, cap_vars, n_params;
    int32_t param_bytes, shared_bytes, local_bytes, max_threads;
    int32_t shared_granule; /* least access to shared memory */
    bool dynamic_shared;
    int32_t n_counters;
    ptx_shadow_counts *counts;
    ptx_function *next;
};

struct ptx_module {
    char *text; /* copy; names point into it */
    sc_device *device;
    ptx_function *functions;
    ptx_var *vars;
    int32_t n_vars, cap_vars;
    const ptx_level *level;
    void *op_table; /* mnemonic -> ptx_op (decode.c) */
};

/* ---- lexer ---- */
typedef enum ptx_token { TOK_END, TOK_WORD, TOK_NUMBER, TOK_F32, TOK_F64, TOK_MARK } ptx_token;
typedef struct ptx_lexer {
    char *at;
    int32_t line;
    ptx_token kind;
    char *word; /* TOK_WORD: NUL-terminated, in the text */
    uint64_t number;
    char mark;
    char held; /* the character that a word's end has replaced, or 0 */
    char *error;
    size_t error_size;
    bool failed;
} ptx_lexer;
void ptx__lex_open(ptx_lexer *x, char *text, char *error, size_t size);
void ptx__lex_next(ptx_lexer *x);
bool ptx__lex_is(const ptx_lexer *x, char mark);
bool ptx__lex_word(const ptx_lexer *x, const char *word);
/* Takes the mark, or fails. */
bool ptx__lex_take(ptx_lexer *x, char mark);
/* Always false, for `return ptx__lex_fail(...)`; the first text is kept. */
bool ptx__lex_fail(ptx_lexer *x, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* ---- statements ---- */
typedef enum ptx_operand_kind {
    O_REG,
    O_INT,
    O_F32,
    O_F64,
    O_VAR,
    O_ADDRESS,
    O_VECTOR,
    O_LABEL
} ptx_operand_kind;
typedef struct ptx_operand {
    uint8_t kind, n;      /* n: registers of a vector */
    int32_t reg[MAX_DST]; /* register, or of a vector; base of an address or -1 */
    uint64_t value;       /* number; offset of an address */
    const ptx_var *var;   /* of an address or alone, or NULL */
    const char *label;
} ptx_operand;
typedef struct ptx_statement {
    const char *name;
    int32_t line, guard;
    bool guard_not;
    int32_t n;
    ptx_operand operand[MAX_OPERANDS];
} ptx_statement;

bool ptx__parse(ptx_module *m, ptx_lexer *x);
/* A register with a constant, made where needed. */
int32_t ptx__constant(ptx_function *f, uint8_t bytes, uint64_t value);
int32_t ptx__reg_new(ptx_function *f, uint8_t bytes);
/* Adds the instruction of a statement. */
bool ptx__decode(ptx_lexer *x, ptx_function *f, const ptx_statement *s);
bool ptx__op_table_open(ptx_module *m);
/* After the last statement: copies vanish, registers get their places. */
bool ptx__place(ptx_function *f);

/* ---- a wave and its block while they run ---- */
typedef struct ptx_group {
    int32_t pc;
    uint64_t bits;
} ptx_group;
typedef struct ptx_worker ptx_worker;
typedef struct ptx_wave {
    ptx_worker *worker;
    int32_t index;       /* in the block */
    uint64_t live, bits; /* lanes that have not ended; that run now */
    int32_t pc;
    int32_t n_groups; /* others that wait to run */
    ptx_group group[LANES];
    uint64_t at_barrier; /* lanes that wait at barrier_pc */
    int32_t barrier_pc;
    char *regs, *local;
    _Alignas(64) uint32_t mask[LANES];
} ptx_wave;

typedef struct ptx_range {
    int64_t lo, hi;
} ptx_range;
enum { KNOWN = 8 };
struct ptx_worker { /* one host thread's part of a launch */
    ptx_function *f;
    const ptx_launch *launch;
    char *memory; /* all below in one piece */
    ptx_wave *waves;
    int32_t n_waves, n_threads;
    uint32_t block[3]; /* that runs */
    unsigned char *shared;
    int64_t shared_bytes;
    bool checked;
    uint32_t epoch;         /* of the block: barriers passed, + 1 */
    uint32_t *wrote, *read; /* per granule of shared memory: epoch and thread */
    ptx_range *ranges;      /* per counter: bytes touched of global memory */
    ptx_shadow_counts *counts;
    sc_mem known[KNOWN]; /* allocations met lately */
    int32_t n_known;
    int64_t executed;
    sc_status status;
    char text[400];
};

/* wave.c: `all`: the lanes that have a thread. */
void ptx__wave_start(ptx_wave *w, uint64_t all);
/* Runs until all lanes are at a barrier or have ended; false: a fault. */
bool ptx__wave_run(ptx_wave *w, uint64_t all);
/* pool.c: calls fn(arg) on up to `threads` threads (0: all cores) at once and waits for them. */
void ptx__pool_run(void (*fn)(void *arg), void *arg, int32_t threads);
/* Runs a load or store for the lanes in bits; false: fault, worker->status and text are set. */
bool ptx__memory(ptx_wave *w, const ptx_insn *i, uint64_t bits);
/* A fault of the instruction for one lane; always false. */
bool ptx__fault(ptx_wave *w, const ptx_insn *i, int32_t lane, sc_status s, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));
/* check.c: of checked blocks.  at: address of each lane, bytes: of the whole access. */
bool ptx__check_shared(ptx_wave *w, const ptx_insn *i, uint64_t bits, const int64_t *at,
                       int32_t bytes);
void ptx__count_global(ptx_worker *k, const ptx_insn *i, uint64_t bits, const int64_t *at,
                       int32_t bytes);

#endif
