// Marks what libsparlow exports; everything else is hidden.
#pragma once

#define SPARLOW_API __attribute__((visibility("default")))
