# replica_ctl: read replicas, run from SQL
#
#   make, make install   build and install for the PostgreSQL of PG_CONFIG
#   make demo            watch a throw-away primary grow replicas
#   make test            every check there is (T="t/x.pl ..." runs those only)
#   make bench           compare with doing the same by hand
#   make indent          rewrite the C sources in PostgreSQL's style
#   make check-style     what "make test" says about style, alone
#
# demo, test and bench install missing Debian packages, then build and run in
# a directory of their own (see dev/with-postgres): nothing is installed into
# the PostgreSQL of this machine.

EXTENSION = replica_ctl
MODULE_big = replica_ctl
DATA = $(wildcard sql/replica_ctl--*.sql) src/core/replica_ctl_rejoin.sh

# RCTL_TEST=1 makes a test build: with the mock provider.  Never install it
# where real replicas run.
# The program that copies data directories (src/copier) goes to where pg_basebackup is.
COPIER = src/copier/replica_ctl_copy
COPIER_OBJS = $(patsubst %.c,%.o,$(wildcard src/copier/*.c))
SCRIPTS_built = $(COPIER)

SOURCES = $(filter-out src/copier/%,$(wildcard src/*.c src/*/*.c))
ifeq ($(RCTL_TEST),1)
TEST_CPPFLAGS = -DRCTL_TEST
else
SOURCES := $(filter-out src/provider/mock%.c,$(SOURCES))
endif
OBJS = $(SOURCES:.c=.o)

# Warnings are errors in CI only: a newer compiler must not break a user's build.
ifneq ($(filter true 1,$(CI) $(WERROR)),)
WERROR_CFLAGS = -Werror
endif

# These work without PostgreSQL: their scripts install it.
STANDALONE = demo test bench indent check-style
.PHONY: $(STANDALONE)

ifneq ($(MAKECMDGOALS),)
ifeq ($(filter-out $(STANDALONE),$(MAKECMDGOALS)),)
NO_BUILD = 1
endif
endif

ifndef NO_BUILD
PG_CONFIG ?= pg_config
PG_CPPFLAGS = -I$(srcdir)/src -I$(shell $(PG_CONFIG) --includedir) $(shell xml2-config --cflags) -MMD -MP $(TEST_CPPFLAGS)
PG_CFLAGS = -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare -Wno-missing-field-initializers $(WERROR_CFLAGS)
SHLIB_LINK = -lpq -lcurl -lxml2 -lyaml
EXTRA_CLEAN = $(wildcard src/*.[do] src/*/*.[do]) build/flavor
PGXS := $(shell $(PG_CONFIG) --pgxs)
ifeq ($(PGXS),)
$(error "$(PG_CONFIG)" does not work: install postgresql-server-dev (dev/install-deps does) or set PG_CONFIG)
endif
# JIT bitcode of code that is never inlined into a query is of no use.
override with_llvm = no
include $(PGXS)

$(COPIER): $(COPIER_OBJS)
	$(CC) $(CFLAGS) $^ $(LDFLAGS) $(LDFLAGS_EX) -L$(pkglibdir) -L$(libdir) -lpgcommon -lpgport -lpthread -o $@

# The header dependencies that the compiler found (-MMD).
-include $(OBJS:.o=.d) $(COPIER_OBJS:.o=.d)

# Objects of another kind of build, or for another PostgreSQL, are stale.
FLAVOR = $(VERSION) $(includedir_server) test=$(RCTL_TEST) $(WERROR_CFLAGS)
$(shell mkdir -p build; echo '$(FLAVOR)' | cmp -s - build/flavor || echo '$(FLAVOR)' > build/flavor)
$(OBJS) $(COPIER_OBJS): build/flavor

# The work directory that dev/run-tests keeps (see there).
clean: clean-work
.PHONY: clean-work
clean-work:
	@if [ -s build/workdir ]; then rm -rf "$$(cat build/workdir)" build/workdir; fi
endif

demo:
	dev/with-postgres dev/demo

test:
	dev/with-postgres --test dev/run-tests $(T)

bench:
	dev/with-postgres bench/run $(B)

indent:
	dev/install-deps --style
	dev/indent

check-style:
	dev/install-deps --style
	dev/check-style
