# A stand-in for the view of this name, used where CVMFS is missing: it sets what a real one sets first, around the compiler of the image.
view=/cvmfs/sft.cern.ch/lcg/views/LCG_106/x86_64-el9-gcc13-opt
export CMAKE_PREFIX_PATH=$view${CMAKE_PREFIX_PATH:+:$CMAKE_PREFIX_PATH}
export PATH=$view/bin:$PATH
export CC=$view/bin/gcc CXX=$view/bin/g++
unset view
