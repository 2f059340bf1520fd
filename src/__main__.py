import sys, os
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from gha_apptainer.node.main import main
raise SystemExit(main())
