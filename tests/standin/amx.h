/* amx.h: AMX tiles on a processor that has none, for tests.
 *
 * Such a processor raises an invalid-opcode trap at a tile instruction.  A handler of SIGILL
 * decodes it, does what it says to a thread's tiles and goes on behind it.  So the code under test
 * is the shipped code, byte for byte; what is not shown this way is its speed. */
#ifndef IV_STANDIN_AMX_H
#define IV_STANDIN_AMX_H

#include <stdbool.h>

/* Installs the handler if the processor lacks AMX.  False: not this processor family. */
bool standin_amx_open(void);
/* Tile instructions emulated so far; 0 where the processor runs them itself. */
long standin_amx_count(void);

#endif
